// The Internet checksum (RFC 1071).
#include "wire/checksum.h"

#include <arpa/inet.h>

#include <cstring>

namespace wire {

uint64_t checksum_add(uint64_t sum, const uint8_t* data, size_t length) {
  while (length >= 4) {
    uint32_t word;
    memcpy(&word, data, 4);
    sum += word;
    data += 4;
    length -= 4;
  }
  if (length >= 2) {
    uint16_t word;
    memcpy(&word, data, 2);
    sum += word;
    data += 2;
    length -= 2;
  }
  if (length > 0) {
    uint16_t word = 0;
    memcpy(&word, data, 1);
    sum += word;
  }
  return sum;
}

uint64_t checksum_pseudo(const uint8_t* addresses, size_t address_bytes, uint8_t protocol,
                         uint32_t length) {
  uint64_t sum = checksum_add(0, addresses, address_bytes);
  return sum + htonl(length) + htons(protocol);
}

}  // namespace wire
