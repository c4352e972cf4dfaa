// Which IPv4 addresses are this host's.
#pragma once
#include <cstdint>

#include "wire/flow_key.h"

namespace relay {

/// Asks the kernel, and remembers the last answer for a second: nearly all flows come from one
/// address.
class OwnAddresses {
 public:
  /// Whether the app of an IPv4 flow is on this host, and not behind it (a container, a routed
  /// network).
  bool has_app_of(const wire::FlowKey& key, uint64_t now_ms);

 private:
  uint32_t address_ = 0;  // network order
  bool is_own_ = false;
  uint64_t asked_ms_ = 0;  // 0: never
};

}  // namespace relay
