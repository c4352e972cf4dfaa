#include "relay/own_addresses.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstring>

#include "base/unique_fd.h"

namespace relay {
namespace {

constexpr uint64_t kRememberedMs = 1000;

// bind(2): EADDRNOTAVAIL for any other host's.
bool can_bind(const wire::FlowKey& key) {
  sockaddr_in v4{};
  v4.sin_family = AF_INET;
  memcpy(&v4.sin_addr, key.app, sizeof v4.sin_addr);
  sockaddr_in6 v6{};
  v6.sin6_family = AF_INET6;
  memcpy(&v6.sin6_addr, key.app, sizeof v6.sin6_addr);
  base::UniqueFd fd(socket(key.is_v6() ? AF_INET6 : AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd) return false;
  const void* address = key.is_v6() ? static_cast<const void*>(&v6) : &v4;
  return bind(fd.get(), static_cast<const sockaddr*>(address),
              key.is_v6() ? sizeof v6 : sizeof v4) == 0;
}

}  // namespace

bool OwnAddresses::has_app_of(const wire::FlowKey& key, uint64_t now_ms) {
  bool is_known = asked_ms_ != 0 && now_ms - asked_ms_ < kRememberedMs &&
                  memcmp(address_, key.app, sizeof address_) == 0;
  if (!is_known) {
    memcpy(address_, key.app, sizeof address_);
    is_own_ = can_bind(key);
    asked_ms_ = now_ms;
  }
  return is_own_;
}

}  // namespace relay
