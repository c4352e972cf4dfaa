// /dev/net/tun: creating the device, and reading and writing one of its queues.
#include "tun/tun_device.h"

#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <cstring>

namespace tun {

base::Result<OpenedTun> open_tun(const std::string& name, int queues) {
  OpenedTun out;
  ifreq request{};
  if (name.empty() || name.size() >= IFNAMSIZ) return base::Failure{"TUNSETIFF", EINVAL};
  memcpy(request.ifr_name, name.data(), name.size());
  for (int i = 0; i < queues; i++) {
    base::UniqueFd fd(::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC));
    if (!fd) return base::Failure{"open /dev/net/tun", errno};
    request.ifr_flags =
        static_cast<short>(IFF_TUN | IFF_NO_PI | IFF_VNET_HDR | (queues > 1 ? IFF_MULTI_QUEUE : 0));
    // IFF_TUN_EXCL: joining somebody else's device of the same name would be a surprise to both.
    if (i == 0) request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_TUN_EXCL);
    if (ioctl(fd.get(), TUNSETIFF, &request) < 0) return base::Failure{"TUNSETIFF", errno};
    auto configured = configure_queue(fd.get());
    if (!configured) return configured.failure();
    out.queues.push_back(std::move(fd));
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
  ssize_t n = count == 1 ? ::write(fd_.get(), parts[0].iov_base, parts[0].iov_len)
                         : ::writev(fd_.get(), parts, count);
  return n < 0 ? -errno : n;
}

}  // namespace tun
