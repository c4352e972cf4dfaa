// Sockets that are dialled again: real ones, over the loopback device.
#include "relay/dialer.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/resource.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "harness.h"
#include "proxy_side.h"

using base::UniqueFd;
using relay::NearPath;
using relay::SocketDialer;

namespace {

constexpr int kLimitMs = 5000;
constexpr uint32_t kNearEnoughUs = 10'000'000;  // also on a machine that is busy

bool is_ready(int fd, short events) {
  pollfd wait{fd, events, 0};
  return poll(&wait, 1, kLimitMs) == 1;
}

struct Listener {
  UniqueFd fd{socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  relay::UpstreamAddress address = lab::upstream_address(0);

  Listener() {
    auto* sockaddr_of = reinterpret_cast<sockaddr*>(&address.address);
    bind(fd.get(), sockaddr_of, address.length);
    listen(fd.get(), 128);
    getsockname(fd.get(), sockaddr_of, &address.length);
  }
  UniqueFd accepted() const {
    return UniqueFd(is_ready(fd.get(), POLLIN) ? accept4(fd.get(), nullptr, nullptr, SOCK_CLOEXEC)
                                               : -1);
  }
};

/// All that comes until the other end closes, or `error N`.
std::string read_all(int fd) {
  std::string out;
  char buffer[4096];
  while (is_ready(fd, POLLIN)) {
    ssize_t n = recv(fd, buffer, sizeof buffer, 0);
    if (n == 0) return out;
    if (n < 0) return "error " + std::to_string(errno);
    out.append(buffer, static_cast<size_t>(n));
  }
  return "nothing came";
}

struct Dialled {
  UniqueFd engine;
  UniqueFd proxy;
};

Dialled dial(SocketDialer& dialer, const Listener& listener) {
  bool in_progress = false;
  UniqueFd engine(dialer.dial(listener.address, in_progress));
  return {std::move(engine), listener.accepted()};
}

bool say(int fd, const std::string& text) {
  return send(fd, text.data(), text.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(text.size());
}

/// A connection that carries a word each way, is ended by the proxy first, and is given back.
/// @return its descriptor's number, -1 when something of it failed
int use_once(SocketDialer& dialer, const Listener& listener, const std::string& word) {
  Dialled pair = dial(dialer, listener);
  int fd = pair.engine.get();
  if (fd < 0 || !pair.proxy || !is_ready(fd, POLLOUT)) return -1;
  bool is_said = say(fd, word) && say(pair.proxy.get(), word);
  shutdown(pair.proxy.get(), SHUT_WR);
  if (!is_said || read_all(fd) != word) return -1;
  dialer.recycle(std::move(pair.engine));
  return read_all(pair.proxy.get()) == word ? fd : -1;
}

std::string congestion_control(int fd) {
  char name[16] = "";
  socklen_t length = sizeof name;
  getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &length);
  return {name, strnlen(name, length)};
}

std::string usual_congestion_control(const Listener& listener) {
  SocketDialer dialer(0, NearPath("none-such"));
  return congestion_control(dial(dialer, listener).engine.get());
}

}  // namespace

TEST("a socket that was given back is dialled again, as new") {
  Listener listener;
  SocketDialer dialer(0);
  int first = use_once(dialer, listener, "first");
  REQUIRE(first >= 0);
  CHECK(dialer.has_spares());
  for (int i = 0; i < 20; i++) {
    // Now and then an acknowledgement is late: then it is another socket, which is right as well.
    int fd = use_once(dialer, listener, "word " + std::to_string(i));
    REQUIRE(fd >= 0);
  }
  Dialled pair = dial(dialer, listener);
  int options = 0;
  socklen_t length = sizeof options;
  getsockopt(pair.engine.get(), IPPROTO_TCP, TCP_DEFER_ACCEPT, &options, &length);
  CHECK(options > 0);
  CHECK(fcntl(pair.engine.get(), F_GETFL) & O_NONBLOCK);
}

TEST("the number of a socket is the same when it is dialled again") {
  Listener listener;
  SocketDialer dialer(0);
  for (int i = 0; i < 100; i++) {
    int first = use_once(dialer, listener, "a");
    Dialled again = dial(dialer, listener);
    if (again.engine.get() == first) return;
  }
  CHECK(!"no socket of a hundred was dialled again");
}

TEST("a socket whose last bytes are not acknowledged goes on until they are") {
  Listener listener;
  SocketDialer dialer(0);
  Dialled pair = dial(dialer, listener);
  REQUIRE(pair.engine.get() >= 0 && is_ready(pair.engine.get(), POLLOUT));
  shutdown(pair.proxy.get(), SHUT_WR);
  REQUIRE(read_all(pair.engine.get()).empty());
  // More than the other end takes before it reads.
  size_t sent = 0;
  const std::string much(1 << 16, 'x');
  while (true) {
    ssize_t n = send(pair.engine.get(), much.data(), much.size(), MSG_NOSIGNAL);
    if (n <= 0) break;
    sent += static_cast<size_t>(n);
  }
  int busy = pair.engine.get();
  dialer.recycle(std::move(pair.engine));
  Dialled other = dial(dialer, listener);
  CHECK(other.engine.get() >= 0);
  CHECK(other.engine.get() != busy);
  CHECK_EQ(read_all(pair.proxy.get()).size(), sent);
}

TEST("what nobody needs is closed at the second trim") {
  Listener listener;
  SocketDialer dialer(0);
  REQUIRE(use_once(dialer, listener, "word") >= 0);
  dialer.trim();
  CHECK(dialer.has_spares());
  dialer.trim();
  CHECK(!dialer.has_spares());
}

TEST("no more than 64 are kept") {
  Listener listener;
  SocketDialer dialer(0);
  std::vector<Dialled> pairs;
  for (int i = 0; i < 65; i++) pairs.push_back(dial(dialer, listener));
  int closed = 0;
  for (Dialled& pair : pairs) {
    int fd = pair.engine.get();
    REQUIRE(fd >= 0);
    dialer.recycle(std::move(pair.engine));
    closed += fcntl(fd, F_GETFD) < 0;
  }
  CHECK_EQ(closed, 1);
}

TEST("a socket of another family is closed, and another made in its place") {
  for (int family : {AF_UNIX, AF_INET6}) {
    Listener listener;
    SocketDialer dialer(0);
    UniqueFd other(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    REQUIRE(other.get() >= 0);
    dialer.recycle(std::move(other));
    Dialled pair = dial(dialer, listener);
    REQUIRE(pair.engine.get() >= 0 && is_ready(pair.engine.get(), POLLOUT));
    CHECK(pair.proxy.get() >= 0);
    CHECK(!dialer.has_spares());
  }
}

TEST("sockets to a near proxy are made without a congestion control that paces") {
  Listener listener;
  std::string usual = usual_congestion_control(listener);
  SocketDialer dialer(0, NearPath(usual, kNearEnoughUs));
  Dialled first = dial(dialer, listener);
  CHECK(congestion_control(first.engine.get()) == usual);
  REQUIRE(is_ready(first.engine.get(), POLLOUT));
  dialer.note_connected(first.engine.get());
  Dialled second = dial(dialer, listener);
  CHECK(congestion_control(second.engine.get()) == "reno");
}

TEST("what the kernel chose stays, where it does not pace or the proxy is far") {
  Listener listener;
  std::string usual = usual_congestion_control(listener);
  for (const NearPath& path : {NearPath("none-such"), NearPath(usual, 0)}) {
    SocketDialer dialer(0, path);
    for (int i = 0; i < 40; i++) {
      Dialled pair = dial(dialer, listener);
      REQUIRE(is_ready(pair.engine.get(), POLLOUT));
      CHECK(congestion_control(pair.engine.get()) == usual);
      dialer.note_connected(pair.engine.get());
    }
  }
}

TEST("a spare that was made before the proxy was known to be near is not dialled again") {
  Listener listener;
  std::string usual = usual_congestion_control(listener);
  SocketDialer dialer(0, NearPath(usual, kNearEnoughUs));
  REQUIRE(use_once(dialer, listener, "word") >= 0);
  REQUIRE(dialer.has_spares());
  SocketDialer plain(0, NearPath("none-such"));
  Dialled other = dial(plain, listener);
  REQUIRE(is_ready(other.engine.get(), POLLOUT));
  dialer.note_connected(other.engine.get());
  CHECK(!dialer.has_spares());
}

TEST("the last descriptors are not for dialling") {
  rlimit before{};
  REQUIRE(getrlimit(RLIMIT_NOFILE, &before) == 0);
  rlimit few{256, before.rlim_max};
  REQUIRE(setrlimit(RLIMIT_NOFILE, &few) == 0);
  {
    Listener proxy;
    SocketDialer dialer(0);
    bool in_progress = false;
    std::vector<UniqueFd> dialled;
    int fd = 0;
    while ((fd = dialer.dial(proxy.address, in_progress)) >= 0) dialled.emplace_back(fd);
    CHECK_EQ(fd, -EMFILE);
    std::vector<UniqueFd> others;
    while ((fd = dup(proxy.fd.get())) >= 0) others.emplace_back(fd);
    CHECK(others.size() > 32u);  // 64, but for what this process was started with
    others.clear();
    dialled.pop_back();
    UniqueFd again(dialer.dial(proxy.address, in_progress));
    CHECK(again);
  }
  setrlimit(RLIMIT_NOFILE, &before);
}
