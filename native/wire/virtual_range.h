// The addresses that stand for names: one number (slot) per name, which is an IPv4 and an IPv6
// address. The same mapping as in src/dns/virtual-range.ts.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace wire {

class VirtualRange {
 public:
  /// Addresses inside the IPv4 range that stand for nothing.
  struct Gap {
    uint32_t offset;  // from the beginning of the range
    uint32_t size;
  };
  static constexpr uint32_t kNone = UINT32_MAX;

  /// Covers nothing.
  VirtualRange() = default;

  /// @param prefix4 CIDR @param gaps4 ascending @param slots bound of slot numbers
  /// @return nothing when a prefix is none
  static std::optional<VirtualRange> make(const std::string& prefix4, const std::string& prefix6,
                                          std::vector<Gap> gaps4, uint32_t slots);

  uint32_t slots() const { return slots_; }

  /// Whether the address (network order) lies in the range, whatever it stands for.
  bool covers(const uint32_t* address, bool is_v6) const;
  /// Number of the address, kNone where it stands for nothing.
  uint32_t slot_of(const uint32_t* address, bool is_v6) const;

 private:
  uint32_t mask4_ = 0;
  uint32_t base4_ = 1;  // what no address has under an empty mask
  uint64_t mask6_[2] = {};
  uint64_t base6_[2] = {1, 1};
  std::vector<Gap> gaps4_;
  uint32_t slots_ = 0;
};

}  // namespace wire
