// Reads decisions from a fuzzer's input; at its end every decision is 0.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string_view>

namespace fuzz {

class Input {
 public:
  explicit Input(std::span<const uint8_t> bytes) : bytes_(bytes) {}
  bool is_empty() const { return bytes_.empty(); }
  uint8_t u8() {
    if (bytes_.empty()) return 0;
    uint8_t value = bytes_[0];
    bytes_ = bytes_.subspan(1);
    return value;
  }
  uint16_t u16() {
    auto high = static_cast<uint16_t>(u8() << 8);
    return static_cast<uint16_t>(high | u8());
  }
  uint32_t u32() {
    auto high = static_cast<uint32_t>(u16()) << 16;
    return high | u16();
  }
  std::span<const uint8_t> take(size_t n) {
    n = std::min(n, bytes_.size());
    auto taken = bytes_.first(n);
    bytes_ = bytes_.subspan(n);
    return taken;
  }
  std::span<const uint8_t> rest() { return take(bytes_.size()); }

 private:
  std::span<const uint8_t> bytes_;
};

/// Ends the run: the input found a defect.
inline void insist(bool holds, std::string_view claim) {
  if (holds) return;
  fprintf(stderr, "does not hold: %.*s\n", static_cast<int>(claim.size()), claim.data());
  abort();
}

}  // namespace fuzz
