// /dev/net/tun: creating the device, and reading and writing one of its queues.
#include "tun/tun_device.h"

#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "wire/packet.h"

namespace tun {

namespace {

base::Result<base::UniqueFd> open_queue(ifreq& request, int flags) {
  base::UniqueFd fd(::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (!fd) return base::Failure{"open /dev/net/tun", errno};
  request.ifr_flags = static_cast<short>(flags);
  if (ioctl(fd.get(), TUNSETIFF, &request) < 0) return base::Failure{"TUNSETIFF", errno};
  auto configured = configure_queue(fd.get());
  if (!configured) return configured.failure();
  return fd;
}

}  // namespace

base::Result<OpenedTun> open_tun(const std::string& name, int queues) {
  OpenedTun out;
  ifreq request{};
  if (name.empty() || name.size() >= IFNAMSIZ) return base::Failure{"TUNSETIFF", EINVAL};
  memcpy(request.ifr_name, name.data(), name.size());
  // IFF_TUN_EXCL: joining somebody else's device of the same name would be a surprise to both.
  int exclusive = IFF_TUN_EXCL;
  int flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR | (queues > 1 ? IFF_MULTI_QUEUE : 0);
  // The writers come first: a detached queue keeps its number, which must be one of an attached
  // queue (the kernel warns of a packet from beyond the last one, get_rps_cpu()).
  const int writers = queues > 1 ? queues : 0;
  for (int i = 0; i < writers + queues; i++) {
    auto opened = open_queue(request, flags | std::exchange(exclusive, 0));
    if (!opened) return opened.failure();
    (i < writers ? out.writers : out.queues).push_back(std::move(opened.value()));
  }
  for (const base::UniqueFd& writer : out.writers) {
    request.ifr_flags = IFF_DETACH_QUEUE;
    if (ioctl(writer.get(), TUNSETQUEUE, &request) < 0) return base::Failure{"TUNSETQUEUE", errno};
  }
  out.name = request.ifr_name;
  return out;
}

base::Result<int> configure_queue(int fd) {
  int header_bytes = sizeof(VnetHeader);
  if (ioctl(fd, TUNSETVNETHDRSZ, &header_bytes) < 0) return base::Failure{"TUNSETVNETHDRSZ", errno};
  if (ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6) < 0)
    return base::Failure{"TUNSETOFFLOAD", errno};
  int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) return base::Failure{"fcntl", errno};
  return 0;
}

ssize_t TunDevice::read(std::span<uint8_t> buffer) {
  ssize_t n = ::read(fd_.get(), buffer.data(), buffer.size());
  return n < 0 ? -errno : n;
}

ssize_t TunDevice::write(const iovec* parts, int count) {
  int fd = writer_ && !steers_ ? writer_.get() : fd_.get();
  std::span<const iovec> packet(parts, static_cast<size_t>(count));
  size_t bytes = 0;
  for (const iovec& part : packet) bytes += part.iov_len;
  if (count == 1 && replaces_last(fd, packet[0])) return static_cast<ssize_t>(bytes);
  if (bytes <= base::WriteBatch::kMostBytes && batch_.add(fd, packet) >= 0)
    return static_cast<ssize_t>(bytes);
  submit_waiting();  // none may overtake another
  ssize_t n =
      count == 1 ? ::write(fd, parts[0].iov_base, parts[0].iov_len) : ::writev(fd, parts, count);
  return n < 0 ? -errno : n;
}

// An acknowledgement that says more than the one that waits goes in its place.
bool TunDevice::replaces_last(int fd, const iovec& packet) {
  std::span<uint8_t> waiting = batch_.last(fd);
  std::span<const uint8_t> later(static_cast<const uint8_t*>(packet.iov_base), packet.iov_len);
  constexpr size_t kVnetBytes = sizeof(VnetHeader);
  if (waiting.size() != later.size() || later.size() <= kVnetBytes ||
      !wire::is_later_ack(later.subspan(kVnetBytes), waiting.subspan(kVnetBytes)))
    return false;
  memcpy(waiting.data(), later.data(), later.size());
  return true;
}

uint64_t TunDevice::submit() {
  submit_waiting();
  return std::exchange(failed_, 0);
}

void TunDevice::submit_waiting() {
  for (int64_t n : batch_.submit()) failed_ += n < 0;
}

}  // namespace tun
