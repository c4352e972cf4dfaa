// Keepalive and idle time-outs, by a clock that the test moves.
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "checked_lab.h"

using engine::Counter;
using lab::CheckedLab;
using lab::Lab;
using lab::LabOptions;

namespace {

LabOptions with(uint32_t keepalive_ms, uint32_t idle_timeout_ms) {
  LabOptions options;
  options.engine.relay.keepalive_ms = keepalive_ms;
  options.engine.relay.idle_timeout_ms = idle_timeout_ms;
  return options;
}

int option_of(int fd, int level, int name) {
  int value = -1;
  socklen_t length = sizeof value;
  getsockopt(fd, level, name, &value, &length);
  return value;
}

bool has_ended(const lab::ProxyEnd& end) { return end.has_eof || end.error != 0; }

}  // namespace

TEST("an idle connection without time-outs lives for a day") {
  CheckedLab lab(with(0, 0));
  auto pair = lab.open();
  REQUIRE(pair);
  uint32_t packets = pair.app->packets_received;
  for (int i = 0; i < 24; i++) {
    lab.advance(1000);
    lab.skip(3'599'000);
  }
  CHECK_EQ(pair.app->packets_received, packets);
  exchange(lab, pair, 1000, 1000);
}

TEST("keepalive probes an idle app, and one that answers lives for a day") {
  CheckedLab lab(with(60'000, 0));
  auto pair = lab.open();
  REQUIRE(pair);
  uint32_t packets = pair.app->packets_received;
  for (int i = 0; i < 24 * 60; i++) {
    lab.advance(100);
    lab.skip(59'900);
  }
  uint32_t probes = pair.app->packets_received - packets;
  CHECK(probes > 24 * 30 && probes < 24 * 130);
  exchange(lab, pair, 1000, 1000);
}

TEST("an app that does not answer probes is given up within two minutes, and its upstream reset") {
  CheckedLab lab(with(60'000, 0));
  auto pair = lab.open();
  REQUIRE(pair);
  pair.app->set_silent(true);
  lab.advance(60'000);
  CHECK_EQ(lab.counter(Counter::kActiveFlows), 1u);
  uint64_t start = lab.now_ms();
  REQUIRE(lab.until([&] { return lab.counter(Counter::kActiveFlows) == 0; }, 120'000));
  CHECK(lab.now_ms() - start >= 50'000);
  CHECK(lab.until([&] { return has_ended(*pair.proxy); }, 100));
  CHECK_EQ(lab.counter(Counter::kResetFlows), 1u);
}

TEST("an app that is away for a few probes and comes back is kept") {
  CheckedLab lab(with(60'000, 0));
  auto pair = lab.open();
  REQUIRE(pair);
  pair.app->set_silent(true);
  lab.advance(100'000);
  pair.app->set_silent(false);
  lab.advance(200'000);
  CHECK_EQ(lab.counter(Counter::kActiveFlows), 1u);
  exchange(lab, pair, 1000, 1000);
}

TEST("an app half-closed by its upstream that vanishes is noticed by keepalive") {
  CheckedLab lab(with(60'000, 0));
  auto pair = lab.open();
  REQUIRE(pair);
  pair.proxy->finish();
  REQUIRE(lab.until([&] { return pair.app->has_eof; }, 100));
  pair.app->set_silent(true);
  CHECK(lab.until([&] { return lab.counter(Counter::kActiveFlows) == 0; }, 200'000));
}

TEST("the idle time-out resets both ends, and only when nothing moved") {
  CheckedLab lab(with(0, 300'000));
  auto idle = lab.open();
  auto busy = lab.open();
  REQUIRE(idle && busy);
  for (int i = 0; i < 10; i++) {
    lab.advance(29'000);
    (i % 2 ? busy.app->send("x") : busy.proxy->send("y"));
  }
  CHECK_EQ(lab.counter(Counter::kActiveFlows), 2u);
  lab.advance(15'000);
  CHECK(idle.app->was_reset);
  CHECK(has_ended(*idle.proxy));
  CHECK(!busy.app->was_reset);
  CHECK_EQ(lab.counter(Counter::kActiveFlows), 1u);
  lab.advance(310'000);
  CHECK(busy.app->was_reset);
  CHECK_EQ(lab.counter(Counter::kResetFlows), 2u);
}

TEST("a download of a byte every 100 ms outlives an idle time-out of a second") {
  CheckedLab lab(with(0, 1000));
  auto pair = lab.open();
  REQUIRE(pair);
  for (int i = 0; i < 100; i++) {
    lab.advance(100);
    pair.proxy->send("x");
  }
  lab.settle();
  CHECK(!pair.app->was_reset);
  CHECK_EQ(pair.app->received.size(), 100u);
}

TEST("no silence that is shorter than the idle time-out resets, wherever in a second it begins") {
  for (uint64_t silence_ms : {1100, 1900}) {
    CheckedLab lab(with(0, 2000));
    auto pair = lab.open();
    REQUIRE(pair);
    lab.advance(1950 - lab.now_ms() % 1000);
    for (int i = 0; i < 20; i++) {
      pair.app->send("x");
      lab.advance(silence_ms);
    }
    CHECK(!pair.app->was_reset);
    CHECK_EQ(pair.proxy->received.size(), 20u);
  }
}

TEST("the idle time-out comes when it is over in full, and at most two seconds later") {
  for (uint64_t begins_ms : {0, 5, 500, 950, 995}) {
    CheckedLab lab(with(0, 2000));
    auto pair = lab.open();
    REQUIRE(pair);
    lab.advance(1000 + begins_ms - lab.now_ms() % 1000);
    pair.proxy->send("x");
    lab.settle();
    uint64_t start = lab.now_ms();
    REQUIRE(lab.until([&] { return pair.app->was_reset; }, 10'000));
    CHECK(lab.now_ms() - start >= 2000);
    CHECK(lab.now_ms() - start <= 4000);
  }
}

TEST("the kernel probes the proxy of a connection that has been idle for the keepalive time") {
  LabOptions options = with(60'000, 0);
  options.dial = lab::Dial::kTcp;
  CheckedLab lab(options);
  auto pair = lab.open();
  REQUIRE(pair);
  int fd = pair.proxy->relay_fd;
  CHECK_EQ(option_of(fd, SOL_SOCKET, SO_KEEPALIVE), 0);
  for (int i = 0; i < 62; i++) lab.skip(1000);
  CHECK_EQ(option_of(fd, SOL_SOCKET, SO_KEEPALIVE), 1);
  CHECK_EQ(option_of(fd, IPPROTO_TCP, TCP_KEEPIDLE), 61);
  CHECK_EQ(option_of(fd, IPPROTO_TCP, TCP_KEEPINTVL), 10);
  CHECK_EQ(option_of(fd, IPPROTO_TCP, TCP_KEEPCNT), 6);
}

TEST("without keepalive nobody probes the proxy") {
  LabOptions options = with(0, 0);
  options.dial = lab::Dial::kTcp;
  CheckedLab lab(options);
  auto pair = lab.open();
  REQUIRE(pair);
  for (int i = 0; i < 62; i++) lab.skip(1000);
  CHECK_EQ(option_of(pair.proxy->relay_fd, SOL_SOCKET, SO_KEEPALIVE), 0);
}

TEST("keepalive probes and their answers are not traffic: the idle time goes on") {
  CheckedLab lab(with(30'000, 120'000));
  auto pair = lab.open();
  REQUIRE(pair);
  CHECK(lab.until([&] { return pair.app->was_reset; }, 130'000));
}

TEST("a download to an app that stopped reading is idle, too") {
  CheckedLab lab(with(0, 60'000));
  auto pair = lab.open({.window = 5000});
  REQUIRE(pair);
  pair.app->set_reading(false);
  pair.proxy->send(lab::pattern(1, 100'000));
  CHECK(lab.until([&] { return pair.app->was_reset; }, 70'000));
}

TEST("a thousand connections time out each at its own time") {
  CheckedLab lab(with(0, 10'000));
  for (int i = 0; i < 100; i++) {
    for (int k = 0; k < 10; k++) REQUIRE(lab.open({.window = 20'000}));
    lab.advance(50);
  }
  CHECK_EQ(lab.counter(Counter::kActiveFlows), 1000u);
  lab.advance(8500);  // the first are 13.5 s old, the last 8.5
  uint64_t left = lab.counter(Counter::kActiveFlows);
  CHECK(left > 100 && left < 900);
  lab.advance(5000);
  CHECK_EQ(lab.counter(Counter::kActiveFlows), 0u);
}

TEST("a clock that jumps by a day, as after a suspend, breaks nothing") {
  CheckedLab lab(with(60'000, 0));
  auto pair = lab.open();
  lab::AppTcp& held = lab.apps.connect();
  REQUIRE(pair);
  lab.settle();
  pair.app->send(lab::pattern(1, 10'000));
  lab.skip(86'400'000);
  lab.settle();
  lab.advance(1000);
  CHECK(held.is_unreachable);  // it waited long enough
  CHECK_EQ(pair.proxy->received.size(), 10'000u);
  CHECK(!pair.app->was_reset);
  pair.app->send(lab::pattern(1, 1000, 10'000));
  CHECK(lab.until([&] { return pair.proxy->received.size() == 11'000; }, 100));
}

TEST("a clock that starts at zero breaks nothing") {
  LabOptions options = with(10'000, 0);
  options.start_ms = 1;
  CheckedLab lab(options);
  auto pair = lab.open();
  REQUIRE(pair);
  lab.advance(70'000);
  exchange(lab, pair, 100'000, 100'000);
}

TEST("after many connections malloc gives back what it holds, once, when nothing moves any more") {
  CheckedLab lab(with(0, 0));
  auto open_and_close = [&](int count) {
    for (int i = 0; i < count; i++) {
      auto pair = lab.open();
      REQUIRE(pair);
      pair.proxy->send("x");
      pair.proxy->finish();
      pair.app->close();
      REQUIRE(lab.until([&] { return pair.app->is_closed(); }, 5000));
    }
  };
  auto pair = lab.open();  // stays, and is silent
  REQUIRE(pair);
  open_and_close(50);
  lab.advance(20'000);
  CHECK_EQ(lab.stats().memory_returns, 0u);
  open_and_close(50);
  CHECK_EQ(lab.stats().memory_returns, 0u);
  lab.advance(20'000);
  CHECK_EQ(lab.stats().memory_returns, 1u);
  exchange(lab, pair, 1000, 1000);
  lab.advance(20'000);
  CHECK_EQ(lab.stats().memory_returns, 1u);
}
