// What comes out of the device and is no TCP: DNS queries are collected for whoever answers them,
// their replies written back, and everything else over UDP is told that nobody listens.
//
// A record of a batch, both ways, little endian; decoded by src/tunstack/datagrams.ts:
//   u16 length of the whole record   u8 family (4, 6)   u8 0
//   u16 port of the client   u16 port of the server
//   u8[16] address of the client   u8[16] address of the server (IPv4 in the first 4)
//   then the payload to the end
#pragma once
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "tun/packet_io.h"
#include "wire/datagram.h"
#include "wire/virtual_range.h"

namespace stack {

constexpr size_t kDatagramRecordBytes = 40;
/// Larger ones are no queries. RFC 6891 section 6.2.5 thinks 4096 sensible.
constexpr size_t kMaxDatagramBytes = 4096;

struct DatagramOptions {
  /// null: no address is virtual. Borrowed.
  const wire::VirtualRange* virtual_range = nullptr;
  /// Port 53 of any address that stands for no name is answered by us.
  bool catches_dns = false;
  uint32_t mtu = 1500;
};

struct DatagramStats {
  uint64_t collected = 0;
  uint64_t sent = 0;
  uint64_t dropped = 0;      // too large, or the device did not take them
  uint64_t unreachable = 0;  // answered by an ICMP error
  uint64_t ignored = 0;
  uint64_t malformed = 0;
};

struct DatagramBatch {
  std::vector<uint8_t> records;
  uint32_t count = 0;
};

class Datagrams {
 public:
  Datagrams(tun::PacketIo& io, const DatagramOptions& options) : io_(io), options_(options) {}

  /// A packet that is not TCP, without its virtio-net header.
  void take(std::span<const uint8_t> packet, const tun::VnetHeader& vnet);

  /// Queries since the last call.
  bool has_batch() const { return batch_.count > 0; }
  DatagramBatch take_batch() { return std::exchange(batch_, {}); }

  /// Writes replies to the device. What does not fit into a packet is dropped, and so is everything
  /// behind a record that is none.
  void send(std::span<const uint8_t> records);

  void set_now(uint64_t now_ms) { now_ms_ = now_ms; }
  const DatagramStats& stats() const { return stats_; }

 private:
  void collect(const wire::DatagramView& datagram);
  void answer_unreachable(const wire::FlowKey& key, std::span<const uint8_t> packet);
  void send_one(const wire::FlowKey& key, std::span<const uint8_t> payload);

  tun::PacketIo& io_;
  DatagramOptions options_;
  DatagramStats stats_;
  DatagramBatch batch_;
  uint64_t now_ms_ = 0;
  uint64_t error_second_ = 0;
  uint32_t errors_this_second_ = 0;
};

}  // namespace stack
