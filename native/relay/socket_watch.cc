#include "relay/socket_watch.h"

#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>

namespace relay {

int SocketWatch::watch(int fd, Flow* flow) {
  auto index = static_cast<size_t>(fd);
  if (index >= flows_.size()) flows_.resize(std::max(index + 1, flows_.size() * 5 / 4));
  flows_[index] = flow;
  epoll_event event{};
  event.events = EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP | EPOLLET;
  event.data.u64 = index;
  if (epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, fd, &event) == 0 || errno == EEXIST) return 0;
  int error = errno;
  release(fd);
  return error;
}

}  // namespace relay
