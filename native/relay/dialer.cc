// Upstream sockets: made, marked and connected, and the CONNECT request written.
#include "relay/dialer.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>

#include <cerrno>

namespace relay {
namespace {

// 6 probes, 10 s apart, after the idle time: a dead proxy is noticed a minute later.
constexpr int kProbeInterval_s = 10;
constexpr int kProbes = 6;

bool set(int fd, int level, int option, int value) {
  return setsockopt(fd, level, option, &value, sizeof value) == 0;
}

}  // namespace

void enable_keepalive(int fd, uint32_t idle_s) {
  set(fd, IPPROTO_TCP, TCP_KEEPIDLE, static_cast<int>(idle_s));
  set(fd, IPPROTO_TCP, TCP_KEEPINTVL, kProbeInterval_s);
  set(fd, IPPROTO_TCP, TCP_KEEPCNT, kProbes);
  set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
}

int SocketDialer::dial(const UpstreamAddress& upstream, bool& in_progress) {
  int family = upstream.address.ss_family;
  base::UniqueFd fd(socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return -errno;
  // Before connect(): the SYN already has to carry it, or it is routed into our own TUN.
  if (fwmark_ && !set(fd.get(), SOL_SOCKET, SO_MARK, static_cast<int>(fwmark_))) return -errno;
  set(fd.get(), IPPROTO_TCP, TCP_NODELAY, 1);
  in_progress = false;
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&upstream.address), upstream.length) <
      0) {
    if (errno != EINPROGRESS) return -errno;
    in_progress = true;
  }
  return fd.release();
}

std::string authority_of(const wire::FlowKey& key) {
  char text[INET6_ADDRSTRLEN] = "";
  inet_ntop(key.is_v6() ? AF_INET6 : AF_INET, key.destination, text, sizeof text);
  std::string out;
  out.reserve(64);
  if (key.is_v6()) out += '[';
  out += text;
  if (key.is_v6()) out += ']';
  out += ':';
  out += std::to_string(ntohs(key.destination_port));
  return out;
}

std::string connect_request(const RequestTemplate& request, const wire::FlowKey& key) {
  std::string authority = authority_of(key);
  std::string out;
  out.reserve(request.head.size() + request.middle.size() + request.tail.size() +
              2 * authority.size());
  out += request.head;
  out += authority;
  out += request.middle;
  out += authority;
  out += request.tail;
  return out;
}

}  // namespace relay
