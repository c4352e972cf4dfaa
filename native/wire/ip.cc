// IP headers that we write.
#include "wire/ip.h"

#include <cstring>

#include "base/bytes.h"
#include "wire/checksum.h"

namespace wire {
namespace {

constexpr uint8_t kHopLimit = 64;

size_t put_ipv4(uint8_t* p, const FlowKey& key, Towards towards, uint8_t protocol,
                uint16_t payload_bytes) {
  memset(p, 0, kIpv4HeaderBytes);
  p[0] = 0x45;
  base::store_be16(p + 2, static_cast<uint16_t>(kIpv4HeaderBytes + payload_bytes));
  p[8] = kHopLimit;
  p[9] = protocol;
  store_addresses(p + 12, key, towards);
  uint16_t sum = static_cast<uint16_t>(~checksum_fold(checksum_add(0, p, kIpv4HeaderBytes)));
  memcpy(p + 10, &sum, 2);
  return kIpv4HeaderBytes;
}

size_t put_ipv6(uint8_t* p, const FlowKey& key, Towards towards, uint8_t protocol,
                uint16_t payload_bytes) {
  memset(p, 0, 8);
  p[0] = 0x60;
  base::store_be16(p + 4, payload_bytes);
  p[6] = protocol;
  p[7] = kHopLimit;
  store_addresses(p + 8, key, towards);
  return kIpv6HeaderBytes;
}

}  // namespace

void store_addresses(uint8_t* out, const FlowKey& key, Towards towards) {
  size_t n = key.is_v6() ? 16 : 4;
  bool is_to_app = towards == Towards::kApp;
  memcpy(out, is_to_app ? key.destination : key.app, n);
  memcpy(out + n, is_to_app ? key.app : key.destination, n);
}

size_t put_ip(uint8_t* p, const FlowKey& key, Towards towards, uint8_t protocol,
              uint16_t payload_bytes) {
  return (key.is_v6() ? put_ipv6 : put_ipv4)(p, key, towards, protocol, payload_bytes);
}

}  // namespace wire
