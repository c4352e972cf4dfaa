// The Internet checksum (RFC 1071).
#pragma once
#include <cstddef>
#include <cstdint>

namespace wire {

/// Ones' complement sum of 16-bit words in memory order, not yet folded. An odd last byte counts as
/// the first byte of a word.
uint64_t checksum_add(uint64_t sum, const uint8_t* data, size_t length);

/// Folds a sum to 16 bits, memory order, not complemented.
inline uint16_t checksum_fold(uint64_t sum) {
  sum = (sum & 0xffffffff) + (sum >> 32);
  sum = (sum & 0xffffffff) + (sum >> 32);
  sum = (sum & 0xffff) + (sum >> 16);
  sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(sum);
}

/// Sum of the pseudo header: addresses, upper-layer length, protocol (RFC 9293 section 3.1, RFC
/// 8200 section 8.1). `addresses` is source and destination back to back, 8 or 32 bytes.
uint64_t checksum_pseudo(const uint8_t* addresses, size_t address_bytes, uint8_t protocol,
                         uint32_t length);

}  // namespace wire
