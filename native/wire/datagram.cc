// What is not TCP, from the TUN device.
#include "wire/datagram.h"

#include <netinet/in.h>

#include <algorithm>

#include "base/bytes.h"
#include "wire/checksum.h"
#include "wire/ip.h"

namespace wire {
namespace {

using base::load_be16;
using base::load_be32;
using base::store_be16;

constexpr uint32_t kUdpHeaderBytes = 8;
constexpr uint32_t kIcmpHeaderBytes = 8;
constexpr size_t kMaxUnreachable4Bytes = 576;
constexpr uint8_t kEchoRequest4 = 8, kEchoRequest6 = 128;
// Destination unreachable: RFC 792, RFC 4443 section 3.1.
constexpr uint8_t kUnreachable4 = 3, kPort4 = 3;
constexpr uint8_t kUnreachable6 = 1, kPort6 = 4;

DatagramVerdict parse_udp(std::span<const uint8_t> rest, DatagramView& out) {
  if (rest.size() < kUdpHeaderBytes) return DatagramVerdict::kMalformed;
  uint16_t length = load_be16(&rest[4]);
  // 0 would be a jumbogram (RFC 2675), which a TUN device cannot hold.
  if (length < kUdpHeaderBytes || length > rest.size()) return DatagramVerdict::kMalformed;
  memcpy(&out.key.app_port, &rest[0], 2);
  memcpy(&out.key.destination_port, &rest[2], 2);
  if (out.key.destination_port == 0) return DatagramVerdict::kMalformed;
  out.udp = rest.first(length);
  out.payload = out.udp.subspan(kUdpHeaderBytes);
  return DatagramVerdict::kUdp;
}

DatagramVerdict parse_upper(uint8_t protocol, std::span<const uint8_t> rest, DatagramView& out) {
  if (protocol == IPPROTO_UDP) return parse_udp(rest, out);
  const uint8_t icmp = out.key.is_v6() ? uint8_t{IPPROTO_ICMPV6} : uint8_t{IPPROTO_ICMP};
  if (protocol != icmp) return DatagramVerdict::kOther;
  if (rest.size() < kIcmpHeaderBytes) return DatagramVerdict::kMalformed;
  bool is_echo = rest[0] == (out.key.is_v6() ? kEchoRequest6 : kEchoRequest4);
  return is_echo ? DatagramVerdict::kEcho : DatagramVerdict::kOther;
}

DatagramVerdict parse_ipv4(std::span<const uint8_t> packet, DatagramView& out) {
  if (packet.size() < kIpv4HeaderBytes) return DatagramVerdict::kMalformed;
  size_t header = static_cast<size_t>(packet[0] & 15) * 4;
  size_t total = load_be16(&packet[2]);
  if (header < kIpv4HeaderBytes || total < header || total > packet.size())
    return DatagramVerdict::kMalformed;
  constexpr uint16_t kMoreFragmentsOrOffset = 0x3fff;
  if (load_be16(&packet[6]) & kMoreFragmentsOrOffset) return DatagramVerdict::kOther;
  memcpy(out.key.app, &packet[12], 4);
  memcpy(out.key.destination, &packet[16], 4);
  out.key.family = 4;
  return parse_upper(packet[9], packet.subspan(header, total - header), out);
}

// Extension headers, fragments among them, are not followed: no Linux program's queries have any.
DatagramVerdict parse_ipv6(std::span<const uint8_t> packet, DatagramView& out) {
  if (packet.size() < kIpv6HeaderBytes) return DatagramVerdict::kMalformed;
  size_t payload = load_be16(&packet[4]);
  if (payload + kIpv6HeaderBytes > packet.size()) return DatagramVerdict::kMalformed;
  memcpy(out.key.app, &packet[8], 16);
  memcpy(out.key.destination, &packet[24], 16);
  out.key.family = 6;
  return parse_upper(packet[6], packet.subspan(kIpv6HeaderBytes, payload), out);
}

uint64_t pseudo_sum(const FlowKey& key, Towards towards, uint8_t protocol, size_t length) {
  uint8_t addresses[32];
  store_addresses(addresses, key, towards);
  return checksum_pseudo(addresses, key.is_v6() ? 32 : 8, protocol, static_cast<uint32_t>(length));
}

bool is_host4(uint32_t address) {
  constexpr uint32_t kMulticastAndAbove = 0xe0000000;  // class E and broadcast too
  uint32_t host = ntohl(address);
  return host >> 24 != 0 && host < kMulticastAndAbove;
}

bool is_host6(const uint32_t* address) {
  auto* bytes = reinterpret_cast<const uint8_t*>(address);
  bool is_unspecified = !(address[0] | address[1] | address[2] | address[3]);
  return bytes[0] != 0xff && !is_unspecified;
}

}  // namespace

DatagramVerdict parse_datagram(std::span<const uint8_t> packet, DatagramView& out) {
  if (packet.empty()) return DatagramVerdict::kMalformed;
  switch (packet[0] >> 4) {
    case 4: return parse_ipv4(packet, out);
    case 6: return parse_ipv6(packet, out);
    default: return DatagramVerdict::kMalformed;
  }
}

bool udp_checksum_is_right(const DatagramView& d) {
  if (load_be16(&d.udp[6]) == 0) return !d.key.is_v6();
  uint64_t sum = pseudo_sum(d.key, Towards::kDestination, IPPROTO_UDP, d.udp.size());
  return checksum_fold(checksum_add(sum, d.udp.data(), d.udp.size())) == 0xffff;
}

bool may_be_answered(const FlowKey& key) {
  constexpr uint32_t kLoopbackNet = 127;
  if (key.is_v6()) return is_host6(key.app) && is_host6(key.destination);
  return is_host4(key.app[0]) && is_host4(key.destination[0]) &&
         ntohl(key.app[0]) >> 24 != kLoopbackNet;
}

size_t put_udp_reply_headers(uint8_t* out, const FlowKey& key, std::span<const uint8_t> payload) {
  auto length = static_cast<uint16_t>(kUdpHeaderBytes + payload.size());
  size_t ip_bytes = put_ip(out, key, Towards::kApp, IPPROTO_UDP, length);
  uint8_t* udp = out + ip_bytes;
  memcpy(udp, &key.destination_port, 2);
  memcpy(udp + 2, &key.app_port, 2);
  store_be16(udp + 4, length);
  store_be16(udp + 6, 0);
  uint64_t sum = pseudo_sum(key, Towards::kApp, IPPROTO_UDP, length);
  sum = checksum_add(sum, udp, kUdpHeaderBytes);
  auto folded =
      static_cast<uint16_t>(~checksum_fold(checksum_add(sum, payload.data(), payload.size())));
  if (folded == 0) folded = 0xffff;  // 0 would be "none"
  memcpy(udp + 6, &folded, 2);
  return ip_bytes + kUdpHeaderBytes;
}

size_t put_port_unreachable(std::span<uint8_t> out, const FlowKey& key,
                            std::span<const uint8_t> packet) {
  bool v6 = key.is_v6();
  size_t ip_bytes = v6 ? kIpv6HeaderBytes : kIpv4HeaderBytes;
  size_t most = v6 ? kMaxUnreachableBytes : kMaxUnreachable4Bytes;
  size_t quoted = std::min(packet.size(), most - ip_bytes - kIcmpHeaderBytes);
  size_t body = kIcmpHeaderBytes + quoted;
  const uint8_t protocol = v6 ? uint8_t{IPPROTO_ICMPV6} : uint8_t{IPPROTO_ICMP};
  uint8_t* icmp =
      out.data() + put_ip(out.data(), key, Towards::kApp, protocol, static_cast<uint16_t>(body));
  memset(icmp, 0, kIcmpHeaderBytes);
  icmp[0] = v6 ? kUnreachable6 : kUnreachable4;
  icmp[1] = v6 ? kPort6 : kPort4;
  memcpy(icmp + kIcmpHeaderBytes, packet.data(), quoted);
  uint64_t sum = v6 ? pseudo_sum(key, Towards::kApp, protocol, body) : 0;
  auto folded = static_cast<uint16_t>(~checksum_fold(checksum_add(sum, icmp, body)));
  memcpy(icmp + 2, &folded, 2);
  return ip_bytes + body;
}

}  // namespace wire
