// The addresses that stand for names.
#include "wire/virtual_range.h"

#include <arpa/inet.h>

#include <charconv>
#include <cstring>

#include "base/bytes.h"

namespace wire {
namespace {

uint64_t load_be64(const void* p) {
  auto* bytes = static_cast<const uint8_t*>(p);
  return static_cast<uint64_t>(base::load_be32(bytes)) << 32 | base::load_be32(bytes + 4);
}

// The first `bits` of a 64-bit word, 0 to 64.
uint64_t mask_of(uint32_t bits) { return bits == 0 ? 0 : ~uint64_t{0} << (64 - bits); }

// `ADDRESS/BITS` into 16 bytes. @return bits, or nothing
std::optional<uint32_t> parse_prefix(int family, const std::string& cidr, uint8_t* address) {
  size_t slash = cidr.find('/');
  if (slash == std::string::npos) return std::nullopt;
  if (inet_pton(family, cidr.substr(0, slash).c_str(), address) != 1) return std::nullopt;
  uint32_t bits = 0;
  const char* end = cidr.data() + cidr.size();
  auto [stop, error] = std::from_chars(cidr.data() + slash + 1, end, bits);
  bool is_good = error == std::errc() && stop == end && bits <= (family == AF_INET ? 32u : 128u);
  return is_good ? std::optional(bits) : std::nullopt;
}

}  // namespace

std::optional<VirtualRange> VirtualRange::make(const std::string& prefix4,
                                               const std::string& prefix6, std::vector<Gap> gaps4,
                                               uint32_t slots) {
  uint8_t address4[16], address6[16];
  auto bits4 = parse_prefix(AF_INET, prefix4, address4);
  auto bits6 = parse_prefix(AF_INET6, prefix6, address6);
  if (!bits4 || !bits6) return std::nullopt;
  VirtualRange out;
  out.mask4_ = static_cast<uint32_t>(mask_of(*bits4 + 32));
  out.base4_ = base::load_be32(address4) & out.mask4_;
  out.mask6_[0] = mask_of(*bits6 < 64 ? *bits6 : 64);
  out.mask6_[1] = mask_of(*bits6 < 64 ? 0 : *bits6 - 64);
  for (int i = 0; i < 2; i++) out.base6_[i] = load_be64(address6 + 8 * i) & out.mask6_[i];
  out.gaps4_ = std::move(gaps4);
  out.slots_ = slots;
  return out;
}

bool VirtualRange::covers(const uint32_t* address, bool is_v6) const {
  if (!is_v6) return (ntohl(address[0]) & mask4_) == base4_;
  return (load_be64(address) & mask6_[0]) == base6_[0] &&
         (load_be64(address + 2) & mask6_[1]) == base6_[1];
}

uint32_t VirtualRange::slot_of(const uint32_t* address, bool is_v6) const {
  if (!covers(address, is_v6)) return kNone;
  uint64_t slot;
  if (is_v6) {
    // Slot 0 is the second address: the first one is the routers' (RFC 4291 section 2.6.1).
    uint64_t offset = load_be64(address + 2) - base6_[1];
    if (load_be64(address) != base6_[0] || offset == 0) return kNone;
    slot = offset - 1;
  } else {
    uint32_t offset = ntohl(address[0]) - base4_;
    slot = offset;
    for (const Gap& gap : gaps4_) {
      if (offset < gap.offset) break;
      if (offset - gap.offset < gap.size) return kNone;
      slot -= gap.size;
    }
  }
  return slot < slots_ ? static_cast<uint32_t>(slot) : kNone;
}

}  // namespace wire
