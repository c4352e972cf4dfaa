// The addresses and ports that name one TCP connection of an application.
#pragma once
#include <cstdint>
#include <cstring>

#include "base/siphash.h"

namespace wire {

/// `app` is who opened the connection, `destination` whom it asked for. Addresses in network order,
/// IPv4 in the first word with the rest zero; ports in network order.
struct FlowKey {
  uint32_t app[4] = {};
  uint32_t destination[4] = {};
  uint16_t app_port = 0;
  uint16_t destination_port = 0;
  uint32_t family = 0;  // 4 or 6

  bool operator==(const FlowKey& o) const { return memcmp(this, &o, sizeof *this) == 0; }
  bool is_v6() const { return family == 6; }
};
static_assert(sizeof(FlowKey) == 40);

/// Keyed, since strangers choose the tuple (forwarded traffic).
inline uint64_t hash_of(const base::SipKey& secret, const FlowKey& key) {
  uint64_t words[5];
  memcpy(words, &key, sizeof words);
  return base::siphash(secret, words, 5);
}

}  // namespace wire
