// A device that loses, duplicates and reorders packets of another.
#include "tun/lossy_io.h"

#include <netinet/in.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/bytes.h"
#include "wire/checksum.h"
#include "wire/packet.h"

namespace tun {
namespace {

constexpr size_t kVnetBytes = sizeof(VnetHeader);
constexpr size_t kTcpSeqAt = 4, kTcpOffsetAt = 12, kTcpFlagsAt = 13, kTcpChecksumAt = 16;

// The part of a super-segment from byte `from` of its data on, as a packet of its own.
std::vector<uint8_t> part_of(std::span<const uint8_t> packet, size_t header_bytes, size_t from,
                             size_t bytes) {
  std::span<const uint8_t> data = packet.subspan(kVnetBytes + header_bytes);
  std::vector<uint8_t> out(packet.begin(),
                           packet.begin() + static_cast<std::ptrdiff_t>(kVnetBytes + header_bytes));
  auto begin = data.begin() + static_cast<std::ptrdiff_t>(from);
  out.insert(out.end(), begin, begin + static_cast<std::ptrdiff_t>(bytes));
  uint8_t* ip = out.data() + kVnetBytes;
  bool v6 = ip[0] >> 4 == 6;
  size_t ip_bytes = v6 ? 40 : 20;
  uint8_t* tcp = ip + ip_bytes;
  size_t tcp_bytes = header_bytes - ip_bytes + bytes;
  if (v6) {
    base::store_be16(ip + 4, static_cast<uint16_t>(tcp_bytes));
  } else {
    base::store_be16(ip + 2, static_cast<uint16_t>(ip_bytes + tcp_bytes));
    memset(ip + 10, 0, 2);
    auto sum = static_cast<uint16_t>(~wire::checksum_fold(wire::checksum_add(0, ip, ip_bytes)));
    memcpy(ip + 10, &sum, 2);
  }
  base::store_be32(tcp + kTcpSeqAt, base::load_be32(tcp + kTcpSeqAt) + static_cast<uint32_t>(from));
  bool is_last = from + bytes == data.size();
  if (!is_last) tcp[kTcpFlagsAt] &= static_cast<uint8_t>(~(wire::kFin | wire::kPsh));
  uint16_t sum = wire::checksum_fold(wire::checksum_pseudo(
      ip + (v6 ? 8 : 12), v6 ? 32 : 8, IPPROTO_TCP, static_cast<uint32_t>(tcp_bytes)));
  memcpy(tcp + kTcpChecksumAt, &sum, 2);
  VnetHeader vnet{};
  vnet.flags = kVnetNeedsChecksum;
  vnet.checksum_start = static_cast<uint16_t>(ip_bytes);
  vnet.checksum_offset = kTcpChecksumAt;
  memcpy(out.data(), &vnet, kVnetBytes);
  return out;
}

// Calls `each` with the packets that the kernel makes of one (GSO), or with the packet itself.
template <class F>
void cut(std::span<const uint8_t> packet, F each) {
  VnetHeader vnet;
  memcpy(&vnet, packet.data(), kVnetBytes);
  if (vnet.gso_type == kVnetGsoNone || vnet.gso_bytes == 0) {
    each({packet.begin(), packet.end()});
    return;
  }
  const uint8_t* ip = packet.data() + kVnetBytes;
  size_t ip_bytes = ip[0] >> 4 == 6 ? 40 : 20;
  size_t header_bytes = ip_bytes + static_cast<size_t>(ip[ip_bytes + kTcpOffsetAt] >> 4) * 4;
  size_t data_bytes = packet.size() - kVnetBytes - header_bytes;
  for (size_t at = 0; at < data_bytes; at += vnet.gso_bytes)
    each(part_of(packet, header_bytes, at, std::min<size_t>(vnet.gso_bytes, data_bytes - at)));
}

}  // namespace

ssize_t LossyIo::read(std::span<uint8_t> buffer) {
  while (arrived_.empty()) {
    ssize_t n = inner_.read(buffer);
    if (n < static_cast<ssize_t>(kVnetBytes)) return n;
    pass(from_app_, buffer.first(static_cast<size_t>(n)),
         [this](Packet packet) { arrived_.push_back(std::move(packet)); });
  }
  Packet packet = std::move(arrived_.front());
  arrived_.pop_front();
  memcpy(buffer.data(), packet.data(), packet.size());
  return static_cast<ssize_t>(packet.size());
}

ssize_t LossyIo::write(const iovec* parts, int count) {
  Packet whole;
  for (int i = 0; i < count; i++) {
    auto* p = static_cast<const uint8_t*>(parts[i].iov_base);
    whole.insert(whole.end(), p, p + parts[i].iov_len);
  }
  auto result = static_cast<ssize_t>(whole.size());
  pass(to_app_, whole, [&](Packet packet) {
    ssize_t n = write_one(std::move(packet));
    if (n < 0) result = n;
  });
  return result;
}

// What nothing overtakes comes a round late.
uint64_t LossyIo::submit() {
  if (!to_app_.delayed.empty() && std::exchange(to_app_.is_late, true))
    write_one(std::exchange(to_app_.delayed, {}));
  if (!from_app_.delayed.empty() && std::exchange(from_app_.is_late, true))
    arrived_.push_back(std::exchange(from_app_.delayed, {}));
  return inner_.submit();
}

template <class F>
void LossyIo::pass(Way& way, std::span<const uint8_t> whole, F deliver) {
  auto meet = [&](Packet packet) {
    if (chance(faults_.drop_one_in)) return;
    if (way.delayed.empty() && chance(faults_.delay_one_in)) {
      way.delayed = std::move(packet);
      way.is_late = false;
      return;
    }
    if (chance(faults_.duplicate_one_in)) deliver(packet);
    deliver(std::move(packet));
    if (!way.delayed.empty()) deliver(std::exchange(way.delayed, {}));
  };
  if (faults_.cuts) {
    cut(whole, meet);
  } else {
    meet({whole.begin(), whole.end()});
  }
}

ssize_t LossyIo::write_one(Packet packet) {
  iovec part{packet.data(), packet.size()};
  return inner_.write(&part, 1);
}

bool LossyIo::chance(uint32_t one_in) {
  if (one_in == 0) return false;
  state_ ^= state_ << 13;  // xorshift64, Marsaglia 2003
  state_ ^= state_ >> 7;
  state_ ^= state_ << 17;
  return (state_ >> 16) % one_in == 0;
}

}  // namespace tun
