// Connections that are open before anybody needs them: learned, used, and never a reason to fail.
#include <linux/tcp.h>  // its tcp_info has more than that of the C library
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>

#include "checked_lab.h"

using engine::Counter;
using lab::AppTcp;
using lab::CheckedLab;
using lab::LabOptions;
using lab::ProxyEnd;

namespace {

LabOptions with_predial(uint32_t wanted) {
  LabOptions options;
  options.engine.relay.predial = wanted;
  return options;
}

size_t asked(CheckedLab& lab) {
  size_t n = 0;
  for (auto& end : lab.proxy.ends) n += !end->request().empty();
  return n;
}

}  // namespace

TEST("one connection is opened on trial, and more once it has proven to stay open") {
  CheckedLab lab(with_predial(3));
  lab.advance(1500);
  CHECK_EQ(lab.proxy.dials, 1u);
  lab.advance(3000);
  CHECK_EQ(lab.proxy.dials, 3u);
  CHECK_EQ(asked(lab), 0u);
}

TEST("a flow takes an open connection, and another is opened in its place") {
  CheckedLab lab(with_predial(2));
  lab.advance(5000);
  REQUIRE(lab.proxy.dials == 2);
  AppTcp& app = lab.apps.connect();
  lab.settle();
  CHECK_EQ(asked(lab), 1u);
  CHECK_EQ(lab.stats().predialled, 1u);
  CHECK_EQ(lab.proxy.dials, 3u);
  REQUIRE(lab.proxy_of(app));
  lab.proxy_of(app)->reply_ok();
  REQUIRE(lab.until([&] { return app.is_connected; }, 100));
  exchange(lab, {&app, lab.proxy_of(app)}, 100'000, 100'000);
}

TEST("one proven connection that the proxy closes is opened anew, and the others stay of use") {
  for (uint64_t idle_ms : {1000, 30'000}) {
    CheckedLab lab(with_predial(3));
    lab.advance(5000);
    REQUIRE(lab.proxy.dials == 3);
    lab.advance(idle_ms);
    lab.proxy.ends[0]->close();
    lab.advance(1500);
    CHECK_EQ(lab.proxy.dials, 4u);
    AppTcp& app = lab.apps.connect();
    lab.settle();
    CHECK_EQ(lab.stats().predialled, 1u);
    REQUIRE(lab.proxy_of(app));
    lab.proxy_of(app)->reply_ok();
    REQUIRE(lab.until([&] { return app.is_connected; }, 100));
    exchange(lab, {&app, lab.proxy_of(app)}, 1000, 1000);
  }
}

// The handshake's last ACK waits for a request on a socket of SocketDialer's.
TEST("a connection that is opened ahead of need is acknowledged without a request") {
  base::UniqueFd listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  relay::UpstreamAddress address = lab::upstream_address(0);
  auto* name = reinterpret_cast<sockaddr*>(&address.address);
  REQUIRE(bind(listener.get(), name, address.length) == 0 && listen(listener.get(), 1) == 0);
  getsockname(listener.get(), name, &address.length);
  base::UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  relay::SocketWatch sockets(epoll.get());
  relay::SocketDialer dialer(0);
  relay::Predialer predialer(dialer, sockets, 1);
  predialer.refill(address, 1000);
  epoll_event event{};
  REQUIRE(epoll_wait(epoll.get(), &event, 1, 5000) == 1);
  auto fd = static_cast<int>(event.data.u64);
  predialer.on_socket(fd, event.events, 1000);
  tcp_info info{};
  socklen_t length = sizeof info;
  REQUIRE(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0);
  CHECK_EQ(info.tcpi_segs_out, 2u);  // SYN and ACK
}

TEST("a proxy that closes idle connections is left alone for a while") {
  CheckedLab lab(with_predial(4));
  lab.advance(1500);
  REQUIRE(lab.proxy.dials == 1);
  lab.proxy.ends[0]->close();
  lab.advance(5000);
  CHECK_EQ(lab.proxy.dials, 1u);
  lab.advance(6500);
  CHECK_EQ(lab.proxy.dials, 2u);  // tried again after ten seconds
  REQUIRE(lab.open());            // and nobody noticed
}

TEST("a proxy that talks first is not trusted with idle connections") {
  CheckedLab lab(with_predial(2));
  lab.advance(1500);
  REQUIRE(lab.proxy.ends.size() == 1);
  lab.proxy.ends[0]->send("HTTP/1.1 408 Request Timeout\r\n\r\n");
  lab.advance(3000);
  CHECK_EQ(lab.proxy.dials, 1u);
}

TEST("an open connection that turns out stale is replaced by a dial, and the app never knows") {
  CheckedLab lab(with_predial(2));
  lab.advance(5000);
  REQUIRE(lab.proxy.dials == 2);
  AppTcp& app = lab.apps.connect();
  // The request is on its way while the proxy closes.
  lab.engine().step(0, lab.now_ms());
  for (auto& end : lab.proxy.ends) end->close();
  REQUIRE(lab.until([&] { return lab.proxy_of(app) != nullptr; }, 1000));
  lab.proxy_of(app)->reply_ok();
  CHECK(lab.until([&] { return app.is_connected; }, 100));
  CHECK_EQ(lab.counter(Counter::kFailedFlows), 0u);
}

TEST("a proxy that answers half a head and closes is a failure, not a stale connection") {
  CheckedLab lab(with_predial(1));
  lab.advance(5000);
  AppTcp& app = lab.apps.connect();
  lab.settle();
  REQUIRE(lab.proxy_of(app));
  lab.proxy_of(app)->send("HTTP/1.1 2");
  lab.settle();
  lab.proxy_of(app)->close();
  CHECK(lab.until([&] { return app.was_refused; }, 100));
  CHECK_EQ(lab.counter(Counter::kFailedFlows), 1u);
}

TEST("with other upstream addresses the connections to the old ones are closed") {
  CheckedLab lab(with_predial(3));
  lab.advance(5000);
  REQUIRE(lab.proxy.dials == 3);
  lab.engine().set_upstreams({lab::upstream_address(99)});
  lab.settle();
  for (size_t i = 0; i < 3; i++) {
    lab.proxy.ends[i]->pump();
    CHECK(lab.proxy.ends[i]->has_eof);
  }
  lab.advance(2000);
  CHECK_EQ(lab.proxy.ends.back()->dialled_address, 99u);
}

TEST("a proxy that cannot be dialled ahead of need is a failure of nobody") {
  CheckedLab lab(with_predial(3));
  lab.proxy.how = lab::Dial::kError;
  lab.proxy.next_error = ECONNREFUSED;
  lab.advance(60'000);
  CHECK(lab.proxy.dials < 10u);
  CHECK_EQ(lab.counter(Counter::kFailedFlows), 0u);
  lab.proxy.how = lab::Dial::kPair;
  CHECK(lab.open());
}

TEST("upstream addresses that are taken away end dialling ahead") {
  CheckedLab lab(with_predial(3));
  lab.engine().set_upstreams({});
  lab.advance(10'000);
  size_t dials = lab.proxy.dials;
  lab.advance(60'000);
  CHECK_EQ(lab.proxy.dials, dials);
}
