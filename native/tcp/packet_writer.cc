#include "tcp/packet_writer.h"

#include <netinet/in.h>

#include <cerrno>
#include <cstring>

#include "base/bytes.h"
#include "wire/checksum.h"
#include "wire/packet.h"

extern "C" {
#include "lwip/pbuf.h"
}

namespace tcp {
namespace {

constexpr uint32_t kIpv4Bytes = 20;
constexpr uint32_t kTcpBytes = 20;
constexpr uint32_t kLargestSayable = 65535;  // in the total length of an IPv4 header
// alloc_skb_with_frags() in net/core/skbuff.c: at most 17 pieces, of 32 KiB and, for the rest, of
// up to three powers of two below it. So 14 and the rest always fit, and so do 15 without one.
constexpr uint32_t kLargestPayload = 15 * 32 * 1024;

// Where things are in a TCP header (RFC 9293 section 3.1).
constexpr size_t kSeqAt = 4, kAckAt = 8, kOffsetAt = 12, kFlagsAt = 13, kWindowAt = 14,
                 kChecksumAt = 16;

uint32_t header_bytes_of(const uint8_t* tcp) {
  return static_cast<uint32_t>(tcp[kOffsetAt] >> 4) * 4;
}

// Sum of the pseudo header as the kernel wants it in a packet whose checksum it completes.
void put_pseudo_checksum(const uint8_t* ip, bool v6, uint8_t* tcp, uint32_t tcp_bytes) {
  uint64_t sum = v6 ? wire::checksum_pseudo(ip + 8, 32, IPPROTO_TCP, tcp_bytes)
                    : wire::checksum_pseudo(ip + 12, 8, IPPROTO_TCP, tcp_bytes);
  uint16_t folded = wire::checksum_fold(sum);
  memcpy(tcp + kChecksumAt, &folded, 2);
}

void put_ipv4_length(uint8_t* ip, uint32_t bytes) {
  base::store_be16(ip + 2, bytes > kLargestSayable ? 0 : static_cast<uint16_t>(bytes));
  memset(ip + 10, 0, 2);
  auto sum = static_cast<uint16_t>(~wire::checksum_fold(wire::checksum_add(0, ip, kIpv4Bytes)));
  memcpy(ip + 10, &sum, 2);
}

tun::VnetHeader vnet_header(bool v6, uint32_t ip_bytes, uint32_t tcp_header_bytes,
                            uint32_t payload_bytes, uint32_t mss) {
  tun::VnetHeader vnet{};
  vnet.flags = tun::kVnetNeedsChecksum;
  vnet.checksum_start = static_cast<uint16_t>(ip_bytes);
  vnet.checksum_offset = kChecksumAt;
  vnet.header_bytes = static_cast<uint16_t>(ip_bytes + tcp_header_bytes);
  if (payload_bytes > mss) {
    vnet.gso_type = v6 ? tun::kVnetGsoTcp6 : tun::kVnetGsoTcp4;
    vnet.gso_bytes = static_cast<uint16_t>(mss);
  }
  return vnet;
}

}  // namespace

bool PacketWriter::write(pbuf* packet, uint32_t mss, bool may_wait) {
  if (may_wait && takes_large_ && wait(packet, mss)) return true;
  flush();
  return write_now(packet, mss);
}

bool PacketWriter::write_now(pbuf* packet, uint32_t mss) {
  auto* ip = static_cast<uint8_t*>(packet->payload);
  bool v6 = (ip[0] >> 4) == 6;
  uint32_t ip_bytes = v6 ? 40 : kIpv4Bytes;
  uint8_t* tcp = ip + ip_bytes;
  uint32_t tcp_bytes = packet->tot_len - ip_bytes;
  put_pseudo_checksum(ip, v6, tcp, tcp_bytes);
  uint32_t header_bytes = header_bytes_of(tcp);
  tun::VnetHeader vnet = vnet_header(v6, ip_bytes, header_bytes, tcp_bytes - header_bytes, mss);
  memcpy(ip - kVnetBytes, &vnet, kVnetBytes);

  iovec parts[kMaxParts];
  int count = 0;
  parts[count++] = {ip - kVnetBytes, packet->len + kVnetBytes};
  pbuf* q = packet->next;
  for (; q && count < kMaxParts - 1; q = q->next) parts[count++] = {q->payload, q->len};
  // Many small writes behind a shut window became one segment: the rest of it in one piece.
  if (q) parts[count++] = {rest_.data(), pbuf_copy_partial(q, rest_.data(), q->tot_len, 0)};
  stats_.packets++;
  if (io_.write(parts, count) >= 0) return true;
  stats_.errors++;
  return false;
}

// @return false when it cannot wait
bool PacketWriter::wait(pbuf* packet, uint32_t mss) {
  auto* ip = static_cast<uint8_t*>(packet->payload);
  uint8_t* tcp = ip + kIpv4Bytes;
  bool is_plain = (ip[0] >> 4) == 4 && packet->len >= kHeaderBytes &&
                  header_bytes_of(tcp) == kTcpBytes && packet->tot_len > kHeaderBytes &&
                  (tcp[kFlagsAt] & ~wire::kPsh) == wire::kAck;
  if (!is_plain) return false;
  uint32_t payload_bytes = packet->tot_len - kHeaderBytes;
  int count = 0;
  for (const pbuf* q = packet; q; q = q->next) count++;
  if (count > kMaxParts) return false;

  Waiting& w = waiting_;
  uint8_t* first = w.head.data() + kVnetBytes + kIpv4Bytes;
  if (w.segment_count > 0) {
    bool follows =
        base::load_be32(tcp + kSeqAt) == base::load_be32(first + kSeqAt) + w.payload_bytes;
    bool says_the_same = memcmp(tcp + kAckAt, first + kAckAt, 4) == 0 &&
                         memcmp(tcp + kWindowAt, first + kWindowAt, 2) == 0 && w.mss == mss;
    bool fits = w.payload_bytes + payload_bytes <= kLargestPayload &&
                w.part_count + count <= kMaxParts && w.segment_count < kMaxSegments;
    if (!follows || !says_the_same || !fits) flush();
  }
  if (w.segment_count == 0) {
    memcpy(w.head.data() + kVnetBytes, ip, kHeaderBytes);
    w.mss = mss;
  }
  first[kFlagsAt] = static_cast<uint8_t>(first[kFlagsAt] | tcp[kFlagsAt]);
  w.segments[static_cast<size_t>(w.segment_count++)] = {w.part_count, payload_bytes};
  w.payload_bytes += payload_bytes;
  auto add = [&](void* data, size_t bytes) {
    if (bytes > 0) w.parts[static_cast<size_t>(++w.part_count)] = {data, bytes};
  };
  add(ip + kHeaderBytes, packet->len - kHeaderBytes);
  for (const pbuf* q = packet->next; q; q = q->next) add(q->payload, q->len);
  return true;
}

void PacketWriter::flush() {
  Waiting& w = waiting_;
  if (w.segment_count == 0) return;
  const uint8_t* tcp = w.head.data() + kVnetBytes + kIpv4Bytes;
  uint32_t seq = base::load_be32(tcp + kSeqAt);
  if (!write_waiting(seq, 0, w.part_count, w.payload_bytes) && w.segment_count > 1) {
    // As it would have been without: lwIP repeats what does not arrive.
    for (int i = 0; i < w.segment_count; i++) {
      const Segment& s = w.segments[static_cast<size_t>(i)];
      int end = i + 1 < w.segment_count ? w.segments[static_cast<size_t>(i + 1)].first_part
                                        : w.part_count;
      write_waiting(seq, s.first_part, end - s.first_part, s.bytes);
      seq += s.bytes;
    }
  }
  w.segment_count = w.part_count = 0;
  w.payload_bytes = 0;
}

bool PacketWriter::write_waiting(uint32_t seq, int first_part, int part_count,
                                 uint32_t payload_bytes) {
  Waiting& w = waiting_;
  uint8_t* ip = w.head.data() + kVnetBytes;
  uint8_t* tcp = ip + kIpv4Bytes;
  base::store_be32(tcp + kSeqAt, seq);
  put_ipv4_length(ip, kHeaderBytes + payload_bytes);
  put_pseudo_checksum(ip, false, tcp, kTcpBytes + payload_bytes);
  tun::VnetHeader vnet = vnet_header(false, kIpv4Bytes, kTcpBytes, payload_bytes, w.mss);
  memcpy(w.head.data(), &vnet, kVnetBytes);
  bool is_large = kHeaderBytes + payload_bytes > kLargestSayable;
  // The slot before the first part is free, or belongs to a part that was written before.
  iovec* parts = &w.parts[static_cast<size_t>(first_part)];
  parts[0] = {w.head.data(), w.head.size()};
  stats_.packets++;
  ssize_t n = io_.write(parts, part_count + 1);
  if (n >= 0) {
    if (is_large) stats_.large_packets++;
    return true;
  }
  if (is_large && (n == -EMSGSIZE || n == -EINVAL)) stop_large_packets();
  stats_.errors++;
  return false;
}

}  // namespace tcp
