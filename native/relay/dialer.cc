// Upstream sockets: made, marked and connected, and the CONNECT request written.
#include "relay/dialer.h"

#include <arpa/inet.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <climits>
#include <cstddef>
#include <cstring>
#include <iterator>
#include <utility>

namespace relay {
namespace {

// 6 probes, 10 s apart, after the idle time: a dead proxy is noticed a minute later.
constexpr int kProbeInterval_s = 10;
constexpr int kProbes = 6;

constexpr size_t kMostSpares = 64;

// Of the last descriptors none is for a flow: status and down are to work, and what they ask of the
// kernel, and DNS.
constexpr rlim_t kReservedDescriptors = 64;

// The first that no socket of ours may have: the kernel gives the lowest number that is free.
int first_reserved_descriptor() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur > INT_MAX) return INT_MAX;
  return static_cast<int>(limit.rlim_cur - std::min(limit.rlim_cur / 2, kReservedDescriptors));
}
constexpr size_t kSparesToTry = 4;

std::string address_text(const wire::FlowKey& key, const uint32_t* address) {
  if (!key.is_v6()) {  // every connection pays for it, and inet_ntop() goes through printf()
    uint8_t bytes[4];
    memcpy(bytes, address, sizeof bytes);
    char text[16];
    char* end = text;
    for (uint8_t byte : bytes) {
      if (end != text) *end++ = '.';
      end = std::to_chars(end, text + sizeof text, byte).ptr;
    }
    return {text, end};
  }
  char text[INET6_ADDRSTRLEN] = "";
  inet_ntop(AF_INET6, address, text, sizeof text);
  return text;
}

bool set(int fd, int level, int option, int value) {
  return setsockopt(fd, level, option, &value, sizeof value) == 0;
}

// @return 0 or errno
int connect_to(int fd, const UpstreamAddress& upstream, bool& in_progress) {
  if (connect(fd, reinterpret_cast<const sockaddr*>(&upstream.address), upstream.length) == 0)
    return 0;
  in_progress = errno == EINPROGRESS;
  return in_progress ? 0 : errno;
}

}  // namespace

void acknowledge_now(int fd) { set(fd, IPPROTO_TCP, TCP_QUICKACK, 1); }

void send_without_delay(int fd) { set(fd, IPPROTO_TCP, TCP_NODELAY, 1); }

void enable_keepalive(int fd, uint32_t idle_s) {
  set(fd, IPPROTO_TCP, TCP_KEEPIDLE, static_cast<int>(idle_s));
  set(fd, IPPROTO_TCP, TCP_KEEPINTVL, kProbeInterval_s);
  set(fd, IPPROTO_TCP, TCP_KEEPCNT, kProbes);
  set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
}

void limit_receive_queue(int fd, uint32_t bytes) {
  // The kernel doubles it for its own use. FORCE: above rmem_max as well, where that is permitted.
  if (!set(fd, SOL_SOCKET, SO_RCVBUFFORCE, static_cast<int>(bytes)))
    set(fd, SOL_SOCKET, SO_RCVBUF, static_cast<int>(bytes));
}

bool tell_when(int fd, uint32_t bytes) {
  return set(fd, SOL_SOCKET, SO_RCVLOWAT, static_cast<int>(bytes));
}

base::Result<base::UniqueFd> SocketDialer::make_socket(int family) {
  base::UniqueFd fd(socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return base::Failure{"socket", errno};
  if (fd.get() >= first_reserved_) return base::Failure{"socket", EMFILE};
  if (family != AF_UNIX) {
    // Before connect(): the SYN already has to carry it, or it is routed into our own TUN.
    if (fwmark_ && !set(fd.get(), SOL_SOCKET, SO_MARK, static_cast<int>(fwmark_)))
      return base::Failure{"SO_MARK", errno};
    // On a socket that connects: the handshake's last ACK waits for the request, which follows at
    // once (tcp_rcv_synsent_state_process() in net/ipv4/tcp_input.c). A packet less per connection.
    set(fd.get(), IPPROTO_TCP, TCP_DEFER_ACCEPT, 1);
    near_path_.prepare(fd.get());
  }
  return fd;
}

// A spare is free once its own FIN is acknowledged: else to dissolve the association would end the
// FIN's retransmission, and the proxy would never learn of the end.
base::UniqueFd SocketDialer::take_spare() {
  size_t tries = std::min(spares_.size(), kSparesToTry);
  for (auto spare = spares_.rbegin(); tries > 0; ++spare, --tries) {
    int unacknowledged = 0;
    if (ioctl(spare->get(), SIOCOUTQ, &unacknowledged) < 0 || unacknowledged > 0) continue;
    base::UniqueFd fd = std::move(*spare);
    spares_.erase(std::next(spare).base());
    least_spares_ = std::min(least_spares_, spares_.size());
    sockaddr none{};
    none.sa_family = AF_UNSPEC;  // connect(2): dissolves the association
    if (connect(fd.get(), &none, sizeof none) < 0) fd.reset();
    return fd;
  }
  return {};
}

SocketDialer::SocketDialer(uint32_t fwmark, NearPath near_path)
    : fwmark_(fwmark),
      first_reserved_(first_reserved_descriptor()),
      near_path_(std::move(near_path)) {}

void SocketDialer::note_connected(int fd) {
  if (!near_path_.learn(fd)) return;
  spares_.clear();
  least_spares_ = 0;
}

void SocketDialer::recycle(base::UniqueFd fd) {
  if (spares_.size() >= kMostSpares) return;
  // A failure is no matter: what the other end has reset is at its end as well.
  shutdown(fd.get(), SHUT_WR);
  spares_.push_back(std::move(fd));
}

void SocketDialer::trim() {
  auto unused = static_cast<std::ptrdiff_t>(std::min(least_spares_, spares_.size()));
  spares_.erase(spares_.begin(), spares_.begin() + unused);
  least_spares_ = spares_.size();
}

int SocketDialer::dial(const UpstreamAddress& upstream, bool& in_progress) {
  int family = upstream.address.ss_family;
  in_progress = false;
  base::UniqueFd spare = family == AF_UNIX ? base::UniqueFd() : take_spare();
  if (spare) {
    int error = connect_to(spare.get(), upstream, in_progress);
    // Of the other family: a proxy has addresses of both, and what is left over ends here.
    if (error != EAFNOSUPPORT && error != EINVAL) return error ? -error : spare.release();
  }
  auto made = make_socket(family);
  if (!made) return -made.failure().error;
  int error = connect_to(made.value().get(), upstream, in_progress);
  return error ? -error : made.value().release();
}

std::string authority_of(const wire::FlowKey& key, std::string_view hostname) {
  std::string out;
  out.reserve(64);
  if (!hostname.empty()) {
    out += hostname;
  } else {
    if (key.is_v6()) out += '[';
    out += address_text(key, key.destination);
    if (key.is_v6()) out += ']';
  }
  out += ':';
  out += std::to_string(ntohs(key.destination_port));
  return out;
}

std::string connect_request(const RequestTemplate& request, std::string_view authority) {
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

UpstreamAddress unix_address(std::string_view path) {
  UpstreamAddress out;
  auto* address = reinterpret_cast<sockaddr_un*>(&out.address);
  if (path.empty() || path.size() >= sizeof address->sun_path) return out;
  address->sun_family = AF_UNIX;
  memcpy(address->sun_path, path.data(), path.size());
  out.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + 1);
  return out;
}

std::string proxy_protocol_line(const wire::FlowKey& key) {
  std::string out = key.is_v6() ? "PROXY TCP6 " : "PROXY TCP4 ";
  out += address_text(key, key.app);
  out += ' ';
  out += address_text(key, key.destination);
  out += ' ';
  out += std::to_string(ntohs(key.app_port));
  out += ' ';
  out += std::to_string(ntohs(key.destination_port));
  out += "\r\n";
  return out;
}

}  // namespace relay
