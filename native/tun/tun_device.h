// /dev/net/tun: creating the device, and reading and writing one of its queues.
#pragma once
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "base/write_batch.h"
#include "tun/packet_io.h"

namespace tun {

struct OpenedTun {
  std::string name;  // as the kernel chose it
  std::vector<base::UniqueFd> queues;
  std::vector<base::UniqueFd> writers;  // one for each of several queues, none for a single one
};

/// Creates a device that lives as long as its descriptors (Documentation/networking/tuntap.rst).
/// Needs CAP_NET_ADMIN. `name` may hold `%d`.
///
/// A writer is a queue that is detached (TUNSETQUEUE): nothing arrives there, and of what is
/// written there the kernel takes no note (tun_get_user() in drivers/net/tun.c). So packets of that
/// flow go where their hash puts them, without an entry in a table of which most would be for
/// connections that are over.
base::Result<OpenedTun> open_tun(const std::string& name, int queues);

/// Sets the header size and the offloads of a descriptor, also one that was handed in from outside
/// (SCM_RIGHTS). Fails with EINVAL when the device was not made with IFF_VNET_HDR.
base::Result<int> configure_queue(int fd);

class TunDevice final : public PacketIo {
 public:
  /// Owns the descriptors, which must be non-blocking. A single queue has no writer.
  explicit TunDevice(base::UniqueFd fd, base::UniqueFd writer = base::UniqueFd())
      : fd_(std::move(fd)), writer_(std::move(writer)) {}
  ssize_t read(std::span<uint8_t> buffer) override;
  ssize_t write(const iovec* parts, int count) override;
  uint64_t submit() override;
  void set_steering(bool steers) override { steers_ = steers; }
  int fd() const override { return fd_.get(); }

 private:
  bool replaces_last(int fd, const iovec& packet);
  void submit_waiting();

  base::UniqueFd fd_;
  base::UniqueFd writer_;
  bool steers_ = false;
  base::WriteBatch batch_;
  uint64_t failed_ = 0;  // since the last submit()
};

}  // namespace tun
