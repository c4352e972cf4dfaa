#include "binding/leak_probe.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/errqueue.h>
#include <poll.h>
#include <string.h>

#include <array>

namespace leak {

namespace {

// Enough to know an answer by.
constexpr size_t kAnswerBytes = 2048;

uint16_t internet_checksum(std::span<const uint8_t> data) {
  uint32_t sum = 0;
  for (size_t i = 0; i < data.size(); i++) sum += i % 2 ? data[i] : data[i] * 256u;
  while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(~sum);
}

/// RFC 792, RFC 4443 section 4.1. A ping socket fills in identifier and checksum by itself.
std::string echo_request(const Probe& probe) {
  bool is_v6 = probe.is_v6();
  auto high = static_cast<uint8_t>(probe.identifier >> 8);
  auto low = static_cast<uint8_t>(probe.identifier);
  std::array<uint8_t, 16> packet{static_cast<uint8_t>(is_v6 ? 128 : 8), 0, 0, 0, high, low, 0, 1};
  if (!is_v6) {
    uint16_t sum = internet_checksum(packet);
    packet[2] = static_cast<uint8_t>(sum >> 8);
    packet[3] = static_cast<uint8_t>(sum);
  }
  return std::string(reinterpret_cast<const char*>(packet.data()), packet.size());
}

/// @return the socket, or none and the probe has failed
bool open_probe_socket(Probe& probe) {
  int family = probe.destination.family();
  int flags = SOCK_NONBLOCK | SOCK_CLOEXEC;
  int type = probe.kind == Kind::kTcp   ? SOCK_STREAM
             : probe.kind == Kind::kRaw ? SOCK_RAW
                                        : SOCK_DGRAM;
  int fd = socket(family, type | flags,
                  probe.kind == Kind::kTcp || probe.kind == Kind::kUdp ? 0 : probe.protocol());
  // Outside of net.ipv4.ping_group_range a ping socket is refused; CAP_NET_RAW does as well.
  if (fd < 0 && probe.kind == Kind::kEcho) {
    fd = socket(family, SOCK_RAW | flags, probe.protocol());
    probe.is_raw = fd >= 0;
  }
  if (fd < 0) {
    probe.fail("socket", errno);
    return false;
  }
  probe.fd = base::UniqueFd(fd);
  int on = 1;
  if (probe.is_v6()) {
    setsockopt(fd, IPPROTO_IPV6, IPV6_RECVERR, &on, sizeof on);
  } else {
    setsockopt(fd, IPPROTO_IP, IP_RECVERR, &on, sizeof on);
  }
  return true;
}

bool set_options(Probe& probe) {
  int fd = probe.fd.get();
  if (probe.mark && setsockopt(fd, SOL_SOCKET, SO_MARK, &probe.mark, sizeof probe.mark) != 0) {
    probe.fail("mark", errno);
    return false;
  }
  if (!probe.device.empty() && setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, probe.device.c_str(),
                                          static_cast<socklen_t>(probe.device.size() + 1)) != 0) {
    probe.fail("device", errno);
    return false;
  }
  if (probe.multicast_index && probe.is_v6()) {
    int index = static_cast<int>(probe.multicast_index);
    setsockopt(fd, IPPROTO_IPV6, IPV6_MULTICAST_IF, &index, sizeof index);
    reinterpret_cast<sockaddr_in6*>(&probe.destination.address)->sin6_scope_id =
        probe.multicast_index;
  } else if (probe.multicast_index) {
    ip_mreqn request{};
    request.imr_ifindex = static_cast<int>(probe.multicast_index);
    setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &request, sizeof request);
  }
  if (probe.source.length && bind(fd, reinterpret_cast<const sockaddr*>(&probe.source.address),
                                  probe.source.length) != 0) {
    probe.fail("source", errno);
    return false;
  }
  return true;
}

void note_local(Probe& probe) {
  probe.local.length = sizeof probe.local.address;
  if (getsockname(probe.fd.get(), reinterpret_cast<sockaddr*>(&probe.local.address),
                  &probe.local.length) != 0)
    probe.local.length = 0;
}

/// Takes the ICMP error from the socket's queue, ip(7) IP_RECVERR: the first one counts.
void read_error_queue(Probe& probe) {
  std::array<char, 512> control{};
  char data[256];
  iovec vector{data, sizeof data};
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  if (recvmsg(probe.fd.get(), &message, MSG_ERRQUEUE | MSG_DONTWAIT) < 0) return;
  for (cmsghdr* part = CMSG_FIRSTHDR(&message); part; part = CMSG_NXTHDR(&message, part)) {
    bool is_error = (part->cmsg_level == IPPROTO_IP && part->cmsg_type == IP_RECVERR) ||
                    (part->cmsg_level == IPPROTO_IPV6 && part->cmsg_type == IPV6_RECVERR);
    if (!is_error || part->cmsg_len < CMSG_LEN(sizeof(sock_extended_err))) continue;
    sock_extended_err error;
    memcpy(&error, CMSG_DATA(part), sizeof error);
    probe.error = static_cast<int>(error.ee_errno);
    if (error.ee_origin != SO_EE_ORIGIN_ICMP && error.ee_origin != SO_EE_ORIGIN_ICMP6) continue;
    probe.icmp_type = error.ee_type;
    probe.icmp_code = error.ee_code;
    size_t left = part->cmsg_len - CMSG_LEN(sizeof error);
    size_t length = probe.is_v6() ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
    if (left < length) continue;
    memcpy(&probe.icmp_from.address, CMSG_DATA(part) + sizeof error, length);
    if (probe.icmp_from.family() == probe.destination.family())
      probe.icmp_from.length = static_cast<socklen_t>(length);
  }
}

/// Whether what a raw socket read is the reply, and not our own request or another's message.
bool is_echo_reply(const Probe& probe, std::span<const uint8_t> packet) {
  size_t start = probe.is_raw && !probe.is_v6() && !packet.empty() ? (packet[0] & 15u) * 4 : 0;
  if (packet.size() < start + 6) return false;
  int identifier = packet[start + 4] * 256 + packet[start + 5];
  return packet[start] == (probe.is_v6() ? 129 : 0) && identifier == probe.identifier;
}

void read_answer(Probe& probe) {
  uint8_t buffer[kAnswerBytes];
  ssize_t got = recv(probe.fd.get(), buffer, sizeof buffer, MSG_DONTWAIT);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got < 0) {
    int number = errno;
    probe.fail("answer", number);
    read_error_queue(probe);
    return;
  }
  std::span<const uint8_t> data(buffer, static_cast<size_t>(got));
  if (probe.kind == Kind::kEcho && !is_echo_reply(probe, data)) return;
  probe.answer.assign(reinterpret_cast<const char*>(buffer), data.size());
  probe.is_done = true;
}

void finish_connect(Probe& probe) {
  int error = 0;
  socklen_t length = sizeof error;
  getsockopt(probe.fd.get(), SOL_SOCKET, SO_ERROR, &error, &length);
  if (error) {
    // Somebody answered; what connect() refuses by itself is known at once.
    probe.fail("answer", error);
    read_error_queue(probe);
    return;
  }
  probe.is_connected = true;
  if (!probe.payload.empty() &&
      send(probe.fd.get(), probe.payload.data(), probe.payload.size(), MSG_NOSIGNAL) < 0)
    return probe.fail("send", errno);
  if (!probe.wants_answer) probe.is_done = true;
}

}  // namespace

Endpoint endpoint_of(const std::string& address, uint16_t port) {
  Endpoint out;
  auto* v4 = reinterpret_cast<sockaddr_in*>(&out.address);
  auto* v6 = reinterpret_cast<sockaddr_in6*>(&out.address);
  if (inet_pton(AF_INET, address.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    out.length = sizeof *v4;
  } else if (inet_pton(AF_INET6, address.c_str(), &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    out.length = sizeof *v6;
  }
  return out;
}

void start(Probe& probe, uint16_t number) {
  if (!open_probe_socket(probe) || !set_options(probe)) return;
  int fd = probe.fd.get();
  int rc = connect(fd, reinterpret_cast<const sockaddr*>(&probe.destination.address),
                   probe.destination.length);
  int error = rc == 0 ? 0 : errno;
  note_local(probe);
  // The port of a ping socket is its identifier.
  probe.identifier = probe.is_raw ? number : probe.local.port();
  if (probe.kind == Kind::kTcp) {
    if (error && error != EINPROGRESS) probe.fail("connect", error);
    return;
  }
  if (error) return probe.fail("connect", error);
  const std::string bytes = probe.kind == Kind::kEcho ? echo_request(probe) : probe.payload;
  if (send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL) < 0) probe.fail("send", errno);
}

void progress(Probe& probe, short events) {
  if (is_connecting(probe)) {
    if (events & (POLLOUT | POLLERR | POLLHUP)) finish_connect(probe);
    return;
  }
  if (events & POLLERR) {
    int error = 0;
    socklen_t length = sizeof error;
    getsockopt(probe.fd.get(), SOL_SOCKET, SO_ERROR, &error, &length);
    if (error) probe.fail("answer", error);
    read_error_queue(probe);
    // A ping or raw socket that is connected reports an error of the queue only there.
    if (!error && probe.error) probe.fail("answer", probe.error);
    if (probe.is_done) return;
  }
  if (events & (POLLIN | POLLHUP)) read_answer(probe);
}

}  // namespace leak
