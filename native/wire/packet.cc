// IP packets from the TUN device as checked views; packets that we write without TCP.
#include "wire/packet.h"

#include <netinet/in.h>

#include "base/bytes.h"
#include "wire/checksum.h"
#include "wire/ip.h"

namespace wire {
namespace {

using base::load_be16;
using base::load_be32;
using base::store_be16;
using base::store_be32;

constexpr uint32_t kTcpHeaderBytes = 20;
constexpr uint8_t kOptionEnd = 0, kOptionNop = 1, kOptionMss = 2;

bool options_are_sound(const uint8_t* tcp, uint32_t header_bytes) {
  for (uint32_t i = kTcpHeaderBytes; i < header_bytes;) {
    if (tcp[i] == kOptionEnd) return true;
    if (tcp[i] == kOptionNop) {
      i++;
      continue;
    }
    if (i + 1 >= header_bytes || tcp[i + 1] < 2 || i + tcp[i + 1] > header_bytes) return false;
    i += tcp[i + 1];
  }
  return true;
}

// Offset of the MSS option's value, or 0.
uint32_t find_mss(const SegmentView& s) {
  for (uint32_t i = kTcpHeaderBytes; i < s.header_bytes && s.tcp[i] != kOptionEnd;) {
    if (s.tcp[i] == kOptionNop) {
      i++;
      continue;
    }
    if (s.tcp[i] == kOptionMss && s.tcp[i + 1] == 4) return i + 2;
    i += s.tcp[i + 1];
  }
  return 0;
}

Verdict parse_tcp(uint8_t* tcp, uint32_t length, SegmentView& out) {
  if (length < kTcpHeaderBytes) return Verdict::kMalformed;
  out.tcp = tcp;
  out.length = length;
  out.header_bytes = static_cast<uint32_t>(tcp[12] >> 4) * 4;
  if (out.header_bytes < kTcpHeaderBytes || out.header_bytes > length) return Verdict::kMalformed;
  if (!options_are_sound(tcp, out.header_bytes)) return Verdict::kMalformed;
  out.payload_bytes = length - out.header_bytes;
  memcpy(&out.key.app_port, tcp, 2);
  memcpy(&out.key.destination_port, tcp + 2, 2);
  if (out.key.app_port == 0 || out.key.destination_port == 0) return Verdict::kMalformed;
  out.seq = load_be32(tcp + 4);
  out.ack = load_be32(tcp + 8);
  out.flags = tcp[13];
  return Verdict::kTcp;
}

Verdict parse_ipv4(std::span<uint8_t> packet, SegmentView& out) {
  if (packet.size() < kIpv4HeaderBytes) return Verdict::kMalformed;
  uint8_t* ip = packet.data();
  uint32_t header = static_cast<uint32_t>(ip[0] & 15) * 4;
  uint32_t total = load_be16(ip + 2);
  if (header < kIpv4HeaderBytes || total < header || total > packet.size())
    return Verdict::kMalformed;
  constexpr uint16_t kMoreFragmentsOrOffset = 0x3fff;
  if (ip[9] != IPPROTO_TCP || (load_be16(ip + 6) & kMoreFragmentsOrOffset)) return Verdict::kNotTcp;
  memcpy(out.key.app, ip + 12, 4);
  memcpy(out.key.destination, ip + 16, 4);
  out.key.family = 4;
  return parse_tcp(ip + header, total - header, out);
}

// Extension headers before TCP are not followed: no Linux application sends them by default.
Verdict parse_ipv6(std::span<uint8_t> packet, SegmentView& out) {
  if (packet.size() < kIpv6HeaderBytes) return Verdict::kMalformed;
  uint8_t* ip = packet.data();
  uint32_t payload = load_be16(ip + 4);
  if (payload + kIpv6HeaderBytes > packet.size()) return Verdict::kMalformed;
  if (ip[6] != IPPROTO_TCP) return Verdict::kNotTcp;
  // The kernel leaves the length 0 in segments of more than 65535 bytes (RFC 2675); ours are
  // smaller.
  if (payload == 0) return Verdict::kMalformed;
  memcpy(out.key.app, ip + 8, 16);
  memcpy(out.key.destination, ip + 24, 16);
  out.key.family = 6;
  return parse_tcp(ip + kIpv6HeaderBytes, payload, out);
}

void put_code(uint8_t* icmp, bool v6, Unreachable why) {
  constexpr uint8_t kUnreach4 = 3, kUnreach6 = 1;
  icmp[0] = v6 ? kUnreach6 : kUnreach4;
  switch (why) {
    case Unreachable::kHost: icmp[1] = v6 ? 3 : 1; break;
    case Unreachable::kNetwork: icmp[1] = 0; break;
    case Unreachable::kProhibited: icmp[1] = v6 ? 1 : 13; break;
  }
}

}  // namespace

Verdict parse_packet(std::span<uint8_t> packet, SegmentView& out) {
  if (packet.empty()) return Verdict::kMalformed;
  switch (packet[0] >> 4) {
    case 4: return parse_ipv4(packet, out);
    case 6: return parse_ipv6(packet, out);
    default: return Verdict::kMalformed;
  }
}

bool tcp_checksum_is_right(const SegmentView& s) {
  uint8_t addresses[32];
  store_addresses(addresses, s.key, Towards::kDestination);
  uint64_t sum = checksum_pseudo(addresses, s.key.is_v6() ? 32 : 8, IPPROTO_TCP, s.length);
  return checksum_fold(checksum_add(sum, s.tcp, s.length)) == 0xffff;
}

uint16_t mss_option(const SegmentView& s) {
  uint32_t at = find_mss(s);
  return at ? load_be16(s.tcp + at) : 0;
}

void set_mss_option(const SegmentView& s, uint16_t mss) {
  if (uint32_t at = find_mss(s)) store_be16(s.tcp + at, mss);
}

bool is_later_ack(std::span<const uint8_t> later, std::span<const uint8_t> earlier) {
  constexpr size_t kTcpBytes = 20;
  if (later.size() != earlier.size() || later.size() < kTcpBytes) return false;
  const uint8_t* ip = later.data();
  const bool is_v4 = ip[0] == 0x45 && later.size() == 20 + kTcpBytes && ip[9] == IPPROTO_TCP;
  const bool is_v6 = ip[0] >> 4 == 6 && later.size() == 40 + kTcpBytes && ip[6] == IPPROTO_TCP;
  if (!is_v4 && !is_v6) return false;
  const size_t addresses_at = is_v4 ? 12 : 8;
  const size_t tcp_at = later.size() - kTcpBytes;
  // Up to the acknowledgement number: addresses, ports, sequence number.
  if (ip[0] != earlier[0] || ip[is_v4 ? 9 : 6] != earlier[is_v4 ? 9 : 6] ||
      memcmp(ip + addresses_at, &earlier[addresses_at], tcp_at + 8 - addresses_at) != 0)
    return false;
  for (auto packet : {later, earlier})
    if (packet[tcp_at + 12] >> 4 != 5 || packet[tcp_at + 13] != kAck) return false;
  uint32_t more = base::load_be32(ip + tcp_at + 8) - base::load_be32(&earlier[tcp_at + 8]);
  return static_cast<int32_t>(more) > 0;
}

IcmpPacket unreachable_for_syn(const FlowKey& key, uint32_t seq, Unreachable why) {
  constexpr size_t kIcmpHeader = 8, kQuoted = 8;  // RFC 792: 64 bits of the original datagram
  bool v6 = key.is_v6();
  size_t ip_bytes = v6 ? kIpv6HeaderBytes : kIpv4HeaderBytes;
  size_t body = kIcmpHeader + ip_bytes + kQuoted;
  IcmpPacket out;
  uint8_t* p = out.bytes.data();
  const uint8_t protocol = v6 ? uint8_t{IPPROTO_ICMPV6} : uint8_t{IPPROTO_ICMP};
  uint8_t* icmp = p + put_ip(p, key, Towards::kApp, protocol, static_cast<uint16_t>(body));
  memset(icmp, 0, kIcmpHeader);
  put_code(icmp, v6, why);
  uint8_t* quoted = icmp + kIcmpHeader;
  quoted += put_ip(quoted, key, Towards::kDestination, IPPROTO_TCP, kTcpHeaderBytes);
  memcpy(quoted, &key.app_port, 2);
  memcpy(quoted + 2, &key.destination_port, 2);
  store_be32(quoted + 4, seq);
  uint64_t sum = 0;
  if (v6) sum = checksum_pseudo(p + 8, 32, protocol, static_cast<uint32_t>(body));
  uint16_t folded = static_cast<uint16_t>(~checksum_fold(checksum_add(sum, icmp, body)));
  memcpy(icmp + 2, &folded, 2);
  out.length = ip_bytes + body;
  return out;
}

}  // namespace wire
