// One packet that may go past the tunnel, from its socket to what became of it.
#pragma once
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/unique_fd.h"

namespace leak {

// RFC 3692 section 2.1: a protocol number for experiments.
constexpr int kExperimentalProtocol = 253;

enum class Kind { kTcp, kUdp, kEcho, kRaw };

struct Endpoint {
  sockaddr_storage address{};
  socklen_t length = 0;
  int family() const { return address.ss_family; }
  uint16_t port() const {
    // The port is at the same place in both.
    return ntohs(reinterpret_cast<const sockaddr_in*>(&address)->sin_port);
  }
  std::span<const uint8_t> bytes() const {
    if (family() == AF_INET6)
      return {reinterpret_cast<const sockaddr_in6*>(&address)->sin6_addr.s6_addr, 16};
    return {
        reinterpret_cast<const uint8_t*>(&reinterpret_cast<const sockaddr_in*>(&address)->sin_addr),
        4};
  }
  std::string text() const {
    char buffer[INET6_ADDRSTRLEN] = "";
    if (length) inet_ntop(family(), bytes().data(), buffer, sizeof buffer);
    return buffer;
  }
};

/// length 0 when the text is no address.
Endpoint endpoint_of(const std::string& address, uint16_t port);

struct Probe {
  Kind kind = Kind::kTcp;
  Endpoint destination;
  Endpoint source;  // length 0: the kernel's choice
  std::string device;
  uint32_t mark = 0;
  uint32_t multicast_index = 0;
  std::string payload;
  bool wants_answer = false;

  // What became of it.
  base::UniqueFd fd;
  const char* step = "";
  int error = 0;
  bool is_connected = false;
  bool is_raw = false;
  // Of an echo request: several may go to one address.
  uint16_t identifier = 0;
  bool is_done = false;
  Endpoint local;
  int icmp_type = -1;
  int icmp_code = -1;
  Endpoint icmp_from;
  std::string answer;
  std::vector<int> seen_on;

  void fail(const char* where, int number) {
    step = where;
    error = number;
    is_done = true;
  }
  bool is_v6() const { return destination.family() == AF_INET6; }
  int protocol() const {
    switch (kind) {
      case Kind::kTcp: return IPPROTO_TCP;
      case Kind::kUdp: return IPPROTO_UDP;
      case Kind::kEcho:
        return is_v6() ? static_cast<int>(IPPROTO_ICMPV6) : static_cast<int>(IPPROTO_ICMP);
      case Kind::kRaw: break;
    }
    return kExperimentalProtocol;
  }
};

/// Opens the socket and sends; the probe is done when that fails.
/// @param number tells it from the others
void start(Probe& probe, uint16_t number);

/// Whether a TCP connection is still being opened.
inline bool is_connecting(const Probe& probe) {
  return probe.kind == Kind::kTcp && !probe.is_connected;
}

/// Takes what poll(2) says of the socket.
void progress(Probe& probe, short events);

}  // namespace leak
