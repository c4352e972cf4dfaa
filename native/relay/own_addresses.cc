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
  sockaddr_in address{};
  address.sin_family = AF_INET;
  memcpy(&address.sin_addr, key.app, sizeof address.sin_addr);
  base::UniqueFd fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  return fd && bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
}

}  // namespace

bool OwnAddresses::has_app_of(const wire::FlowKey& key, uint64_t now_ms) {
  bool is_known = asked_ms_ != 0 && now_ms - asked_ms_ < kRememberedMs && address_ == key.app[0];
  if (!is_known) {
    address_ = key.app[0];
    is_own_ = can_bind(key);
    asked_ms_ = now_ms;
  }
  return is_own_;
}

}  // namespace relay
