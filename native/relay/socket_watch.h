// The sockets in the engine's epoll set, by descriptor: an event never leads to freed memory, and a
// socket that is dialled again need not leave the set.
#pragma once
#include <cstddef>
#include <vector>

namespace relay {

struct Flow;

class SocketWatch {
 public:
  explicit SocketWatch(int epoll_fd) : epoll_fd_(epoll_fd) {}

  /// Into the set, edge-triggered, with the descriptor as epoll's data; one that is in it stays.
  /// `flow` is told of it, null for nobody. @return 0 or errno
  int watch(int fd, Flow* flow);
  /// Call it before the socket is closed or becomes another's; one that was never watched may come.
  void release(int fd) {
    if (static_cast<size_t>(fd) < flows_.size()) flows_[static_cast<size_t>(fd)] = nullptr;
  }
  /// Null for a socket that is no flow's (any more).
  Flow* flow_of(int fd) const {
    return static_cast<size_t>(fd) < flows_.size() ? flows_[static_cast<size_t>(fd)] : nullptr;
  }

 private:
  int epoll_fd_;
  std::vector<Flow*> flows_;
};

}  // namespace relay
