// lwIP's packets to the device. Segments of a download that follow each other go together in one
// packet, larger than an IP header can say, where the app's kernel takes that.
//
// Large packets
// -------------
// What a segment costs on its way into the app's socket is mostly not its bytes: a system call, a
// pass through the kernel's network stack, a wake-up of the app, an ACK and our reading of it. The
// kernel has packets of up to 512 KiB for itself, "BIG TCP" (since Linux 6.3: total length 0 in the
// IPv4 header, GSO says the rest; include/linux/ip.h, iph_totlen()), and a TUN device takes them
// (since 6.6; older ones answer EMSGSIZE) of up to 480 KiB. They are for this host alone: on their
// way out of it they would be cut in software.
#pragma once
#include <array>
#include <cstdint>

#include "tun/packet_io.h"

struct pbuf;

namespace tcp {

struct WriterStats {
  uint64_t packets = 0;
  uint64_t large_packets = 0;  // of more than 64 KiB
  uint64_t errors = 0;
};

class PacketWriter {
 public:
  explicit PacketWriter(tun::PacketIo& io) : io_(io) {}

  /// A packet of lwIP's from its IP header on, with room for a virtio-net header in front of it.
  /// `mss` is what the kernel may cut it by. With `may_wait` it is borrowed until flush(), so that
  /// the next one can go with it.
  /// @return false when the device did not take it
  bool write(pbuf* packet, uint32_t mss, bool may_wait);
  /// Writes what waits.
  void flush();
  /// And what the device has put off.
  void submit() {
    flush();
    stats_.errors += io_.submit();
  }

  /// See tun::PacketIo::set_steering().
  void set_steering(bool steers) {
    if (steers != steers_) io_.set_steering(steers_ = steers);
  }

  /// Never again: such packets do not arrive.
  void stop_large_packets() { takes_large_ = false; }
  bool takes_large_packets() const { return takes_large_; }

  const WriterStats& stats() const { return stats_; }

 private:
  static constexpr int kMaxParts = 64;  // of one packet
  static constexpr int kMaxSegments = 8;
  static constexpr uint32_t kVnetBytes = sizeof(tun::VnetHeader);
  static constexpr uint32_t kHeaderBytes = 40;  // of IPv4 and TCP without options

  struct Segment {
    int first_part;
    uint32_t bytes;  // of payload
  };
  // Segments that wait, all of one connection: the first one's headers, everybody's data.
  struct Waiting {
    std::array<uint8_t, kVnetBytes + kHeaderBytes> head;
    std::array<iovec, kMaxParts + 1> parts;  // [0] is for the head
    std::array<Segment, kMaxSegments> segments;
    int part_count = 0;
    int segment_count = 0;
    uint32_t payload_bytes = 0;
    uint32_t mss = 0;
  };

  bool wait(pbuf* packet, uint32_t mss);
  bool write_waiting(uint32_t seq, int first_part, int part_count, uint32_t payload_bytes);
  bool write_now(pbuf* packet, uint32_t mss);

  tun::PacketIo& io_;
  WriterStats stats_;
  Waiting waiting_;
  bool takes_large_ = true;
  bool steers_ = false;
  std::array<uint8_t, 65536> rest_;  // of a packet in too many parts
};

}  // namespace tcp
