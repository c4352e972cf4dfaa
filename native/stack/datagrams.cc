// What comes out of the device and is no TCP.
#include "stack/datagrams.h"

#include <arpa/inet.h>

namespace stack {
namespace {

constexpr uint16_t kDnsPort = 53;
// RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 (f). Enough for every program that tries QUIC.
constexpr uint32_t kMostErrorsPerSecond = 1000;
constexpr size_t kMostHeaderBytes = wire::udp_headers_bytes(true);

void put16(uint8_t* p, uint16_t value) {
  p[0] = static_cast<uint8_t>(value);
  p[1] = static_cast<uint8_t>(value >> 8);
}
uint16_t take16(const uint8_t* p) { return static_cast<uint16_t>(p[0] | p[1] << 8); }

}  // namespace

void Datagrams::take(std::span<const uint8_t> packet, const tun::VnetHeader& vnet) {
  wire::DatagramView datagram;
  switch (wire::parse_datagram(packet, datagram)) {
    case wire::DatagramVerdict::kMalformed: stats_.malformed++; return;
    case wire::DatagramVerdict::kOther: stats_.ignored++; return;
    case wire::DatagramVerdict::kEcho: {
      const wire::FlowKey& key = datagram.key;
      bool is_virtual =
          options_.virtual_range && options_.virtual_range->covers(key.destination, key.is_v6());
      if (is_virtual) return answer_unreachable(key, packet);
      stats_.ignored++;
      return;
    }
    case wire::DatagramVerdict::kUdp: break;
  }
  // Local traffic comes with its checksum left to the device; forwarded traffic may not.
  bool is_trusted = vnet.flags & (tun::kVnetNeedsChecksum | tun::kVnetDataValid);
  if (vnet.gso_type != tun::kVnetGsoNone || (!is_trusted && !udp_checksum_is_right(datagram))) {
    stats_.malformed++;
    return;
  }
  const wire::FlowKey& key = datagram.key;
  bool is_query =
      options_.catches_dns && key.destination_port == htons(kDnsPort) &&
      !(options_.virtual_range &&
        options_.virtual_range->slot_of(key.destination, key.is_v6()) != wire::VirtualRange::kNone);
  if (is_query) return collect(datagram);
  answer_unreachable(key, packet);
}

void Datagrams::collect(const wire::DatagramView& datagram) {
  const wire::FlowKey& key = datagram.key;
  if (key.app_port == 0 || !wire::may_be_answered(key)) {
    stats_.ignored++;
    return;
  }
  if (datagram.payload.size() > kMaxDatagramBytes) {
    stats_.dropped++;
    return;
  }
  uint8_t head[kDatagramRecordBytes] = {};
  put16(head, static_cast<uint16_t>(sizeof head + datagram.payload.size()));
  head[2] = static_cast<uint8_t>(key.family);
  put16(head + 4, ntohs(key.app_port));
  put16(head + 6, ntohs(key.destination_port));
  memcpy(head + 8, key.app, 16);
  memcpy(head + 24, key.destination, 16);
  std::vector<uint8_t>& out = batch_.records;
  out.insert(out.end(), head, head + sizeof head);
  out.insert(out.end(), datagram.payload.begin(), datagram.payload.end());
  batch_.count++;
  stats_.collected++;
}

void Datagrams::answer_unreachable(const wire::FlowKey& key, std::span<const uint8_t> packet) {
  if (error_second_ != now_ms_ / 1000) {
    error_second_ = now_ms_ / 1000;
    errors_this_second_ = 0;
  }
  if (!wire::may_be_answered(key) || errors_this_second_ >= kMostErrorsPerSecond) {
    stats_.ignored++;
    return;
  }
  errors_this_second_++;
  uint8_t error[wire::kMaxUnreachableBytes];
  size_t length = wire::put_port_unreachable(error, key, packet);
  tun::VnetHeader vnet{};
  iovec parts[2] = {{&vnet, sizeof vnet}, {error, length}};
  if (io_.write(parts, 2) < 0) {
    stats_.ignored++;
  } else {
    stats_.unreachable++;
  }
}

void Datagrams::send(std::span<const uint8_t> records) {
  while (records.size() >= kDatagramRecordBytes) {
    const uint8_t* head = records.data();
    size_t length = take16(head);
    if (length < kDatagramRecordBytes || length > records.size()) break;
    wire::FlowKey key;
    key.family = head[2];
    key.app_port = htons(take16(head + 4));
    key.destination_port = htons(take16(head + 6));
    // The rest of a shorter address is zero in every key.
    size_t address_bytes = key.is_v6() ? 16 : 4;
    memcpy(key.app, head + 8, address_bytes);
    memcpy(key.destination, head + 24, address_bytes);
    if (key.family != 4 && key.family != 6) break;
    send_one(key, records.subspan(kDatagramRecordBytes, length - kDatagramRecordBytes));
    records = records.subspan(length);
  }
  if (!records.empty()) stats_.dropped++;
}

void Datagrams::send_one(const wire::FlowKey& key, std::span<const uint8_t> payload) {
  if (wire::udp_headers_bytes(key.is_v6()) + payload.size() > options_.mtu) {
    stats_.dropped++;
    return;
  }
  uint8_t headers[sizeof(tun::VnetHeader) + kMostHeaderBytes] = {};
  size_t bytes = sizeof(tun::VnetHeader) +
                 wire::put_udp_reply_headers(headers + sizeof(tun::VnetHeader), key, payload);
  iovec parts[2] = {{headers, bytes}, {const_cast<uint8_t*>(payload.data()), payload.size()}};
  if (io_.write(parts, payload.empty() ? 1 : 2) < 0) {
    stats_.dropped++;
  } else {
    stats_.sent++;
  }
}

}  // namespace stack
