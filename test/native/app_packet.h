// Packets as the application's kernel makes and reads them. Written apart from native/wire, byte by
// byte, so that it can judge it.
#pragma once
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tun/packet_io.h"
#include "wire/flow_key.h"

namespace lab {

using Bytes = std::vector<uint8_t>;

constexpr uint8_t kFin = 1, kSyn = 2, kRst = 4, kPsh = 8, kAck = 16;

/// A tuple of documentation addresses: `app_port` and `destination_port` in host order.
wire::FlowKey make_key(bool is_v6, uint16_t app_port, uint16_t destination_port);

struct TcpSegment {
  wire::FlowKey key;
  uint32_t seq = 0;
  uint32_t ack = 0;
  uint8_t flags = 0;
  uint16_t window = 0;  // as on the wire, unscaled
  Bytes options;        // padded to 4 by encode()
  Bytes payload;
};

/// Sum of big-endian 16-bit words, folded, not complemented: RFC 1071 without any cleverness.
uint16_t slow_sum(std::span<const uint8_t> data, uint32_t start = 0);

Bytes mss_option(uint16_t mss);
Bytes window_scale_option(uint8_t shift);
Bytes joined(std::initializer_list<Bytes> parts);

/// A packet of the app's with its virtio-net header. With `is_offloaded` the checksum is left to
/// the device, as the kernel does for local traffic; else it is computed.
Bytes encode(const TcpSegment& segment, bool is_offloaded = true);
struct UdpDatagram {
  wire::FlowKey key;
  Bytes payload;
};
/// The same for a datagram.
Bytes encode(const UdpDatagram& datagram, bool is_offloaded = true);
/// The app's or the server's address, from text.
void set_address(uint32_t* words, const std::string& address);

/// Computes and stores the TCP checksum of a whole IP packet (without virtio-net header).
void store_tcp_checksum(std::span<uint8_t> ip_packet);

/// A packet of the engine's, taken apart and examined.
struct FromEngine {
  enum class Kind { kTcp, kUdp, kIcmp, kBroken };
  Kind kind = Kind::kBroken;
  TcpSegment segment;  // key as the app sees it: app is the receiver; of UDP key and payload
  tun::VnetHeader vnet{};
  uint8_t icmp_type = 0;
  uint8_t icmp_code = 0;
  Bytes quoted;         // IP packet inside an ICMP error
  std::string problem;  // why the app's kernel would not take it; empty when it would
};
FromEngine decode(std::span<const uint8_t> packet);

/// Value of an option in decoded segments.
std::optional<uint32_t> option_value(const TcpSegment& segment, uint8_t kind);

/// A device in memory. The engine owns it; both ends are the test's.
struct Wire {
  std::vector<Bytes> to_engine;  // in order
  std::vector<Bytes> from_engine;
  size_t next_to_engine = 0;
  int refused_writes = 0;  // so many writes fail with write_error
  int write_error = 0;
  size_t largest_packet = SIZE_MAX;  // with its virtio-net header; what is larger:
  int too_large_error = 0;           // ... fails with this, or with 0 is lost without a word
  uint32_t too_large = 0;            // ... and is counted
  bool is_gone = false;              // reads fail with EBADFD
  // The engine's memory that packets were read into and written from, while it is noted.
  bool notes_memory = false;
  std::vector<std::span<const uint8_t>> read_into;
  std::vector<std::span<const uint8_t>> written_from;

  void push(Bytes packet) { to_engine.push_back(std::move(packet)); }
};

class MemoryDevice final : public tun::PacketIo {
 public:
  explicit MemoryDevice(Wire& wire) : wire_(wire) {}
  ssize_t read(std::span<uint8_t> buffer) override;
  ssize_t write(const iovec* parts, int count) override;
  int fd() const override { return -1; }

 private:
  Wire& wire_;
};

}  // namespace lab
