// Packets as the application's kernel makes and reads them.
#include "app_packet.h"

#include <arpa/inet.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace lab {
namespace {

constexpr size_t kVnetBytes = sizeof(tun::VnetHeader);

uint32_t be16(const uint8_t* p) { return static_cast<uint32_t>(p[0] << 8 | p[1]); }
uint32_t be32(const uint8_t* p) { return be16(p) << 16 | be16(p + 2); }

void put16(Bytes& out, uint32_t v) {
  out.push_back(static_cast<uint8_t>(v >> 8));
  out.push_back(static_cast<uint8_t>(v));
}
void put32(Bytes& out, uint32_t v) {
  put16(out, v >> 16);
  put16(out, v);
}
void put_address(Bytes& out, const uint32_t* words, bool is_v6) {
  uint8_t raw[16];
  memcpy(raw, words, 16);
  out.insert(out.end(), raw, raw + (is_v6 ? 16 : 4));
}

// Sum of addresses, protocol and length of an IP packet's pseudo header.
uint32_t pseudo_sum(std::span<const uint8_t> ip, uint8_t protocol, size_t length) {
  bool is_v6 = ip[0] >> 4 == 6;
  uint32_t sum = slow_sum(is_v6 ? ip.subspan(8, 32) : ip.subspan(12, 8));
  return sum + protocol + static_cast<uint32_t>(length >> 16) + (length & 0xffff);
}

size_t ip_header_bytes(std::span<const uint8_t> ip) {
  return ip[0] >> 4 == 6 ? 40 : static_cast<size_t>(ip[0] & 15) * 4;
}

// What the kernel checks before it looks at the protocol. @return empty when all is right
std::string examine_ip(std::span<const uint8_t> ip, const tun::VnetHeader& vnet) {
  if (ip.empty()) return "empty";
  if (ip[0] >> 4 == 6) {
    if (ip.size() < 40) return "short IPv6 header";
    if (be16(&ip[4]) + 40 != ip.size()) return "IPv6 payload length is wrong";
    if (ip[7] == 0) return "hop limit 0";
    return {};
  }
  if (ip.size() < 20 || ip[0] != 0x45) return "IPv4 header is wrong";
  // iph_totlen() in include/linux/ip.h: 0 means as long as it is, of a GSO packet alone.
  bool is_large = ip.size() > 65535 && vnet.gso_type == tun::kVnetGsoTcp4;
  if (be16(&ip[2]) != (is_large ? 0 : ip.size())) return "IPv4 total length is wrong";
  constexpr size_t kGroMaxSize = 8 * 65535;  // include/linux/netdevice.h
  if (ip.size() > kGroMaxSize) return "larger than the kernel's largest";
  if (be16(&ip[6]) & 0x3fff) return "a fragment";
  if (ip[8] == 0) return "TTL 0";
  if (slow_sum(ip.first(20)) != 0xffff) return "IPv4 header checksum is wrong";
  return {};
}

// The virtio-net header must describe the segment (virtio 1.1 section 5.1.6.2, and what
// virtio_net_hdr_to_skb() insists on).
std::string examine_offload(const tun::VnetHeader& vnet, std::span<const uint8_t> ip,
                            size_t header_bytes, size_t payload_bytes) {
  if (vnet.flags != tun::kVnetNeedsChecksum) return "checksum is not left to the kernel";
  size_t ip_bytes = ip_header_bytes(ip);
  if (vnet.checksum_start != ip_bytes || vnet.checksum_offset != 16) return "checksum position";
  size_t tcp_bytes = header_bytes + payload_bytes;
  if (be16(&ip[ip_bytes + 16]) != slow_sum({}, pseudo_sum(ip, 6, tcp_bytes)))
    return "pseudo header sum is wrong";
  if (vnet.gso_type == tun::kVnetGsoNone) return vnet.gso_bytes ? "gso_size without GSO" : "";
  bool is_v6 = ip[0] >> 4 == 6;
  if (vnet.gso_type != (is_v6 ? tun::kVnetGsoTcp6 : tun::kVnetGsoTcp4)) return "GSO type";
  if (vnet.gso_bytes == 0 || vnet.gso_bytes >= payload_bytes) return "GSO size";
  if (vnet.header_bytes != ip_bytes + header_bytes) return "GSO header length";
  return {};
}

void read_addresses(std::span<const uint8_t> ip, wire::FlowKey& key) {
  bool is_v6 = ip[0] >> 4 == 6;
  key.family = is_v6 ? 6 : 4;
  size_t n = is_v6 ? 16 : 4;
  const uint8_t* source = &ip[is_v6 ? 8 : 12];
  memcpy(key.destination, source, n);
  memcpy(key.app, source + n, n);
}

void decode_tcp(std::span<const uint8_t> ip, FromEngine& out) {
  size_t ip_bytes = ip_header_bytes(ip);
  std::span<const uint8_t> tcp = ip.subspan(ip_bytes);
  if (tcp.size() < 20) {
    out.problem = "short TCP header";
    return;
  }
  size_t header = static_cast<size_t>(tcp[12] >> 4) * 4;
  if (header < 20 || header > tcp.size()) {
    out.problem = "TCP header length is wrong";
    return;
  }
  TcpSegment& s = out.segment;
  read_addresses(ip, s.key);
  s.key.destination_port = htons(static_cast<uint16_t>(be16(&tcp[0])));
  s.key.app_port = htons(static_cast<uint16_t>(be16(&tcp[2])));
  s.seq = be32(&tcp[4]);
  s.ack = be32(&tcp[8]);
  s.flags = tcp[13];
  s.window = static_cast<uint16_t>(be16(&tcp[14]));
  s.options.assign(tcp.begin() + 20, tcp.begin() + static_cast<std::ptrdiff_t>(header));
  s.payload.assign(tcp.begin() + static_cast<std::ptrdiff_t>(header), tcp.end());
  out.problem = examine_offload(out.vnet, ip, header, s.payload.size());
  out.kind = FromEngine::Kind::kTcp;
}

void decode_udp(std::span<const uint8_t> ip, FromEngine& out) {
  std::span<const uint8_t> udp = ip.subspan(ip_header_bytes(ip));
  out.kind = FromEngine::Kind::kUdp;
  if (udp.size() < 8 || be16(&udp[4]) != udp.size()) {
    out.problem = "UDP length is wrong";
    return;
  }
  read_addresses(ip, out.segment.key);
  out.segment.key.destination_port = htons(static_cast<uint16_t>(be16(&udp[0])));
  out.segment.key.app_port = htons(static_cast<uint16_t>(be16(&udp[2])));
  out.segment.payload.assign(udp.begin() + 8, udp.end());
  if (be16(&udp[6]) == 0) out.problem = "no UDP checksum";
  if (slow_sum(udp, pseudo_sum(ip, IPPROTO_UDP, udp.size())) != 0xffff)
    out.problem = "UDP checksum is wrong";
}

void decode_icmp(std::span<const uint8_t> ip, uint8_t protocol, FromEngine& out) {
  size_t ip_bytes = ip_header_bytes(ip);
  std::span<const uint8_t> icmp = ip.subspan(ip_bytes);
  if (icmp.size() < 8) {
    out.problem = "short ICMP";
    return;
  }
  uint32_t start = protocol == IPPROTO_ICMPV6 ? pseudo_sum(ip, protocol, icmp.size()) : 0;
  if (slow_sum(icmp, start) != 0xffff) out.problem = "ICMP checksum is wrong";
  out.icmp_type = icmp[0];
  out.icmp_code = icmp[1];
  out.quoted.assign(icmp.begin() + 8, icmp.end());
  read_addresses(ip, out.segment.key);
  if (out.quoted.size() >= 28) {
    size_t inner = ip_header_bytes(out.quoted);
    out.segment.key.app_port = htons(static_cast<uint16_t>(be16(&out.quoted[inner])));
    out.segment.key.destination_port = htons(static_cast<uint16_t>(be16(&out.quoted[inner + 2])));
    out.segment.seq = be32(&out.quoted[inner + 4]);
  }
  out.kind = FromEngine::Kind::kIcmp;
}

}  // namespace

wire::FlowKey make_key(bool is_v6, uint16_t app_port, uint16_t destination_port) {
  wire::FlowKey key;
  key.family = is_v6 ? 6 : 4;
  inet_pton(is_v6 ? AF_INET6 : AF_INET, is_v6 ? "2001:db8::10" : "192.0.2.10", key.app);
  inet_pton(is_v6 ? AF_INET6 : AF_INET, is_v6 ? "2001:db8:7::5" : "203.0.113.5", key.destination);
  key.app_port = htons(app_port);
  key.destination_port = htons(destination_port);
  return key;
}

uint16_t slow_sum(std::span<const uint8_t> data, uint32_t start) {
  uint32_t sum = start;
  for (size_t i = 0; i < data.size(); i += 2) {
    sum += static_cast<uint32_t>(data[i]) << 8;
    if (i + 1 < data.size()) sum += data[i + 1];
    sum = (sum & 0xffff) + (sum >> 16);
  }
  while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(sum);
}

Bytes mss_option(uint16_t mss) {
  return {2, 4, static_cast<uint8_t>(mss >> 8), static_cast<uint8_t>(mss)};
}
Bytes window_scale_option(uint8_t shift) { return {1, 3, 3, shift}; }
Bytes joined(std::initializer_list<Bytes> parts) {
  Bytes out;
  for (const Bytes& part : parts) out.insert(out.end(), part.begin(), part.end());
  return out;
}

namespace {

// IP header without options, and the header's checksum.
Bytes ip_header(const wire::FlowKey& key, uint8_t protocol, size_t payload_bytes) {
  Bytes ip;
  if (key.is_v6()) {
    ip = {0x60, 0, 0, 0};
    put16(ip, static_cast<uint32_t>(payload_bytes));
    ip.push_back(protocol);
    ip.push_back(64);
  } else {
    ip = {0x45, 0};
    put16(ip, static_cast<uint32_t>(20 + payload_bytes));
    ip.insert(ip.end(), {0, 0, 0x40, 0, 64, protocol, 0, 0});  // don't fragment
  }
  put_address(ip, key.app, key.is_v6());
  put_address(ip, key.destination, key.is_v6());
  if (!key.is_v6()) {
    auto sum = static_cast<uint16_t>(~slow_sum(ip));
    ip[10] = static_cast<uint8_t>(sum >> 8);
    ip[11] = static_cast<uint8_t>(sum);
  }
  return ip;
}

// Behind a virtio-net header: with its checksum at `offset` complete, or left to the device.
Bytes finished(Bytes ip, uint8_t protocol, uint16_t offset, bool is_offloaded) {
  size_t ip_bytes = ip_header_bytes(ip);
  std::span<uint8_t> upper = std::span(ip).subspan(ip_bytes);
  uint32_t pseudo = pseudo_sum(ip, protocol, upper.size());
  tun::VnetHeader vnet{};
  uint16_t sum;
  if (is_offloaded) {
    vnet.flags = tun::kVnetNeedsChecksum;
    vnet.checksum_start = static_cast<uint16_t>(ip_bytes);
    vnet.checksum_offset = offset;
    sum = slow_sum({}, pseudo);
  } else {
    sum = static_cast<uint16_t>(~slow_sum(upper, pseudo));
  }
  upper[offset] = static_cast<uint8_t>(sum >> 8);
  upper[offset + 1u] = static_cast<uint8_t>(sum);
  Bytes out(kVnetBytes);
  memcpy(out.data(), &vnet, kVnetBytes);
  out.insert(out.end(), ip.begin(), ip.end());
  return out;
}

}  // namespace

Bytes encode(const TcpSegment& s, bool is_offloaded) {
  Bytes options = s.options;
  while (options.size() % 4) options.push_back(0);
  size_t header = 20 + options.size();
  Bytes ip = ip_header(s.key, IPPROTO_TCP, header + s.payload.size());
  put16(ip, ntohs(s.key.app_port));
  put16(ip, ntohs(s.key.destination_port));
  put32(ip, s.seq);
  put32(ip, s.ack);
  ip.push_back(static_cast<uint8_t>(header / 4 << 4));
  ip.push_back(s.flags);
  put16(ip, s.window);
  put32(ip, 0);  // checksum, urgent pointer
  ip.insert(ip.end(), options.begin(), options.end());
  ip.insert(ip.end(), s.payload.begin(), s.payload.end());
  return finished(std::move(ip), IPPROTO_TCP, 16, is_offloaded);
}

Bytes encode(const UdpDatagram& d, bool is_offloaded) {
  size_t udp_bytes = 8 + d.payload.size();
  Bytes ip = ip_header(d.key, IPPROTO_UDP, udp_bytes);
  put16(ip, ntohs(d.key.app_port));
  put16(ip, ntohs(d.key.destination_port));
  put16(ip, static_cast<uint32_t>(udp_bytes));
  put16(ip, 0);
  ip.insert(ip.end(), d.payload.begin(), d.payload.end());
  return finished(std::move(ip), IPPROTO_UDP, 6, is_offloaded);
}

void set_address(uint32_t* words, const std::string& address) {
  memset(words, 0, 16);
  bool is_v6 = address.find(':') != std::string::npos;
  if (inet_pton(is_v6 ? AF_INET6 : AF_INET, address.c_str(), words) != 1) abort();
}

void store_tcp_checksum(std::span<uint8_t> ip) {
  size_t ip_bytes = ip_header_bytes(ip);
  std::span<uint8_t> tcp = ip.subspan(ip_bytes);
  tcp[16] = tcp[17] = 0;
  auto sum = static_cast<uint16_t>(~slow_sum(tcp, pseudo_sum(ip, IPPROTO_TCP, tcp.size())));
  tcp[16] = static_cast<uint8_t>(sum >> 8);
  tcp[17] = static_cast<uint8_t>(sum);
}

FromEngine decode(std::span<const uint8_t> packet) {
  FromEngine out;
  if (packet.size() < kVnetBytes) {
    out.problem = "shorter than a virtio-net header";
    return out;
  }
  memcpy(&out.vnet, packet.data(), kVnetBytes);
  std::span<const uint8_t> ip = packet.subspan(kVnetBytes);
  out.problem = examine_ip(ip, out.vnet);
  if (!out.problem.empty()) return out;
  uint8_t protocol = ip[0] >> 4 == 6 ? ip[6] : ip[9];
  if (protocol == IPPROTO_TCP) {
    decode_tcp(ip, out);
  } else if (protocol == IPPROTO_UDP) {
    decode_udp(ip, out);
  } else if (protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6) {
    decode_icmp(ip, protocol, out);
  } else {
    out.problem = "unknown protocol " + std::to_string(protocol);
  }
  return out;
}

std::optional<uint32_t> option_value(const TcpSegment& s, uint8_t kind) {
  const Bytes& o = s.options;
  for (size_t i = 0; i < o.size() && o[i] != 0;) {
    if (o[i] == 1) {
      i++;
      continue;
    }
    if (i + 1 >= o.size() || o[i + 1] < 2 || i + o[i + 1] > o.size()) return std::nullopt;
    if (o[i] == kind) {
      uint32_t value = 0;
      for (size_t j = 2; j < o[i + 1]; j++) value = value << 8 | o[i + j];
      return value;
    }
    i += o[i + 1];
  }
  return std::nullopt;
}

ssize_t MemoryDevice::read(std::span<uint8_t> buffer) {
  if (wire_.is_gone) return -EBADFD;
  if (wire_.next_to_engine >= wire_.to_engine.size()) {
    wire_.to_engine.clear();
    wire_.next_to_engine = 0;
    return -EAGAIN;
  }
  const Bytes& packet = wire_.to_engine[wire_.next_to_engine++];
  size_t n = std::min(packet.size(), buffer.size());
  if (n > 0) memcpy(buffer.data(), packet.data(), n);
  if (wire_.notes_memory) wire_.read_into.push_back(buffer);
  return static_cast<ssize_t>(n);
}

ssize_t MemoryDevice::write(const iovec* parts, int count) {
  if (wire_.refused_writes > 0) {
    wire_.refused_writes--;
    return -wire_.write_error;
  }
  Bytes packet;
  for (int i = 0; i < count; i++) {
    auto* p = static_cast<const uint8_t*>(parts[i].iov_base);
    packet.insert(packet.end(), p, p + parts[i].iov_len);
    if (wire_.notes_memory) wire_.written_from.push_back({p, parts[i].iov_len});
  }
  auto length = static_cast<ssize_t>(packet.size());
  if (packet.size() > wire_.largest_packet) {
    wire_.too_large++;
    return wire_.too_large_error ? -wire_.too_large_error : length;
  }
  wire_.from_engine.push_back(std::move(packet));
  return length;
}

}  // namespace lab
