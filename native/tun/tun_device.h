// /dev/net/tun: creating the device, and reading and writing one of its queues.
#pragma once
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "tun/packet_io.h"

namespace tun {

struct OpenedTun {
  std::string name;  // as the kernel chose it
  std::vector<base::UniqueFd> queues;
};

/// Creates a device that lives as long as its descriptors (Documentation/networking/tuntap.rst).
/// Needs CAP_NET_ADMIN. `name` may hold `%d`.
base::Result<OpenedTun> open_tun(const std::string& name, int queues);

/// Sets the header size and the offloads of a descriptor, also one that was handed in from outside
/// (SCM_RIGHTS). Fails with EINVAL when the device was not made with IFF_VNET_HDR.
base::Result<int> configure_queue(int fd);

class TunDevice final : public PacketIo {
 public:
  /// Owns the descriptor, which must be non-blocking.
  explicit TunDevice(base::UniqueFd fd) : fd_(std::move(fd)) {}
  ssize_t read(std::span<uint8_t> buffer) override;
  ssize_t write(const iovec* parts, int count) override;
  int fd() const override { return fd_.get(); }

 private:
  base::UniqueFd fd_;
};

}  // namespace tun
