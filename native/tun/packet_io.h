// What a packet device is: whole IP packets, each behind a virtio-net header.
#pragma once
#include <sys/types.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>

namespace tun {

// linux/virtio_net.h is not valid C++ (a member named `class`), so its ten bytes stand here
// (include/uapi/linux/virtio_net.h, struct virtio_net_hdr; native byte order by default on TUN).
struct VnetHeader {
  uint8_t flags;
  uint8_t gso_type;
  uint16_t header_bytes;
  uint16_t gso_bytes;
  uint16_t checksum_start;
  uint16_t checksum_offset;
};
static_assert(sizeof(VnetHeader) == 10);

constexpr uint8_t kVnetNeedsChecksum = 1;
constexpr uint8_t kVnetDataValid = 2;
constexpr uint8_t kVnetGsoNone = 0;
constexpr uint8_t kVnetGsoTcp4 = 1;
constexpr uint8_t kVnetGsoTcp6 = 4;

/// Largest packet either way; the kernel's super-segments stop at 64 KiB.
constexpr size_t kMaxPacketBytes = 65536;

class PacketIo {
 public:
  virtual ~PacketIo() = default;
  /// One packet with its header into `buffer`. @return bytes, or -errno (-EAGAIN: none waiting)
  virtual ssize_t read(std::span<uint8_t> buffer) = 0;
  /// One packet with its header. A small one may be copied, to be written by submit().
  /// @return bytes, or -errno
  virtual ssize_t write(const iovec* parts, int count) = 0;
  /// Writes what waits. @return how many packets the device did not take
  virtual uint64_t submit() { return 0; }
  /// Whether the flow of each packet that is written from now on shall come in here, wherever its
  /// packets came in before. At first not.
  virtual void set_steering(bool) {}
  /// Becomes readable when a packet waits.
  virtual int fd() const = 0;
};

}  // namespace tun
