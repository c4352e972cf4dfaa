#include "binding/leak_watch.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <sys/socket.h>

#include <algorithm>

namespace leak {

void Watch::open() {
  fd_ = base::UniqueFd(socket(AF_PACKET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd_) return note(errno);
  // Outgoing only, and of those what holds the ports: others need not be copied.
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(SKF_AD_OFF + SKF_AD_PKTTYPE)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, PACKET_OUTGOING, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, 128),
      BPF_STMT(BPF_RET | BPF_K, 0),
  };
  sock_fprog filter{static_cast<unsigned short>(std::size(program)), program};
  int size = 4 * 1024 * 1024;
  setsockopt(fd_.get(), SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
  sockaddr_ll all{};
  all.sll_family = AF_PACKET;
  all.sll_protocol = htons(ETH_P_ALL);
  if (setsockopt(fd_.get(), SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter) != 0 ||
      bind(fd_.get(), reinterpret_cast<const sockaddr*>(&all), sizeof all) != 0)
    return note(errno);
}

void Watch::drain(std::vector<Probe>& probes) {
  while (fd_) {
    uint8_t packet[128];
    sockaddr_ll from{};
    socklen_t length = sizeof from;
    ssize_t got = recvfrom(fd_.get(), packet, sizeof packet, MSG_DONTWAIT,
                           reinterpret_cast<sockaddr*>(&from), &length);
    if (got < 0 && errno == EINTR) continue;
    // ENETDOWN tells of a device that went away; the others go on.
    if (got < 0 && errno == ENETDOWN) continue;
    if (got < 0) return;
    match(probes, {packet, static_cast<size_t>(got)}, from.sll_ifindex);
  }
}

/// A record with gaps proves nothing.
void Watch::close() {
  if (!fd_) return;
  tpacket_stats statistics{};
  socklen_t length = sizeof statistics;
  getsockopt(fd_.get(), SOL_PACKET, PACKET_STATISTICS, &statistics, &length);
  if (statistics.tp_drops > 0) error_ = ENOBUFS;
  fd_ = base::UniqueFd();
}

void Watch::note(int error) {
  error_ = error;
  fd_ = base::UniqueFd();
}

void Watch::match(std::vector<Probe>& probes, std::span<const uint8_t> packet, int index) {
  if (packet.size() < 20) return;
  bool is_v6 = packet[0] >> 4 == 6;
  if (!is_v6 && packet[0] >> 4 != 4) return;
  size_t header = is_v6 ? 40 : (packet[0] & 15u) * 4;
  if (packet.size() < header + 8) return;
  int protocol = is_v6 ? packet[6] : packet[9];
  std::span<const uint8_t> to = packet.subspan(is_v6 ? 24 : 16, is_v6 ? 16 : 4);
  std::span<const uint8_t> rest = packet.subspan(header);
  for (Probe& probe : probes) {
    if (probe.is_v6() != is_v6 || probe.protocol() != protocol) continue;
    if (!std::ranges::equal(probe.destination.bytes(), to)) continue;
    bool has_ports = probe.kind == Kind::kTcp || probe.kind == Kind::kUdp;
    auto be16 = [&rest](size_t at) { return rest[at] * 256 + rest[at + 1]; };
    if (has_ports && (be16(2) != probe.destination.port() || be16(0) != probe.local.port()))
      continue;
    if (probe.kind == Kind::kEcho && be16(4) != probe.identifier) continue;
    auto& seen = probe.seen_on;
    if (std::ranges::find(seen, index) == seen.end()) seen.push_back(index);
  }
}

}  // namespace leak
