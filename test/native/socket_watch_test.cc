// The engine's epoll set: each event is told of once, whatever is left unread.
#include "relay/socket_watch.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>

#include "base/unique_fd.h"
#include "harness.h"
#include "relay/flow.h"

using base::UniqueFd;
using relay::Flow;
using relay::SocketWatch;

namespace {

constexpr int kLimitMs = 5000;

struct Watched {
  UniqueFd epoll{epoll_create1(EPOLL_CLOEXEC)};
  SocketWatch sockets{epoll.get()};
  UniqueFd ours, peer;
  Flow flow;

  Watched() {
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) < 0) return;
    ours.reset(pair[0]);
    peer.reset(pair[1]);
  }
  bool say() const { return send(peer.get(), "x", 1, MSG_NOSIGNAL) == 1; }
  /// What epoll tells of our end; 0 when it tells of nothing.
  uint32_t events(int wait_ms) const {
    epoll_event event{};
    if (epoll_wait(epoll.get(), &event, 1, wait_ms) != 1) return 0;
    return event.data.u64 == static_cast<uint64_t>(ours.get()) ? event.events : 0;
  }
};

}  // namespace

TEST("data is told of once, read or not, and again when more has come") {
  Watched w;
  REQUIRE(w.sockets.watch(w.ours.get(), &w.flow) == 0);
  CHECK_EQ(w.events(kLimitMs), static_cast<uint32_t>(EPOLLOUT));
  for (int i = 0; i < 3; i++) {
    REQUIRE(w.say());
    CHECK(w.events(kLimitMs) & EPOLLIN);
    CHECK_EQ(w.events(0), 0u);
  }
}

TEST("what came before a socket was watched is told of, and so is the end") {
  Watched w;
  REQUIRE(w.say());
  REQUIRE(w.sockets.watch(w.ours.get(), &w.flow) == 0);
  CHECK(w.events(kLimitMs) & EPOLLIN);
  CHECK_EQ(w.events(0), 0u);
  shutdown(w.peer.get(), SHUT_WR);
  CHECK(w.events(kLimitMs) & EPOLLRDHUP);
  CHECK_EQ(w.events(0), 0u);
}

TEST("a socket that is watched again stays in the set, and is another flow's") {
  Watched w;
  Flow other;
  REQUIRE(w.sockets.watch(w.ours.get(), &w.flow) == 0);
  w.sockets.release(w.ours.get());
  CHECK(w.sockets.flow_of(w.ours.get()) == nullptr);
  REQUIRE(w.sockets.watch(w.ours.get(), &other) == 0);
  CHECK(w.sockets.flow_of(w.ours.get()) == &other);
  REQUIRE(w.say());
  CHECK(w.events(kLimitMs) & EPOLLIN);
}

TEST("a descriptor that is none is refused, and is no flow's") {
  UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  SocketWatch sockets(epoll.get());
  Flow flow;
  int closed = UniqueFd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)).get();
  CHECK_EQ(sockets.watch(closed, &flow), EBADF);
  CHECK(sockets.flow_of(closed) == nullptr);
}
