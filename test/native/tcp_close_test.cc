// The end of a connection: FIN each way, RST each way, TIME_WAIT, and ends that get lost.
#include <cerrno>

#include "checked_lab.h"

using engine::Counter;
using lab::AppTcp;
using lab::CheckedLab;
using lab::Dial;
using lab::Lab;
using lab::LabOptions;

namespace {

constexpr bool kBothFamilies[] = {false, true};

bool has_ended(const lab::ProxyEnd& end) { return end.has_eof || end.error != 0; }

}  // namespace

TEST("half-close by the app keeps the other direction open") {
  CheckedLab lab;
  auto pair = lab.open();
  REQUIRE(pair);
  pair.app->send("GET /");
  pair.app->close();
  REQUIRE(lab.until([&] { return pair.proxy->has_eof; }, 100));
  CHECK_EQ(pair.proxy->received_text(), std::string("GET /"));
  for (int i = 0; i < 20; i++) {
    lab.advance(10'000);
    pair.proxy->send(lab::pattern(1, 10'000, static_cast<uint64_t>(i) * 10'000));
  }
  REQUIRE(lab.until([&] { return pair.app->received.size() == 200'000; }));
  CHECK_EQ(lab::first_difference(pair.app->received, 1), -1);
  CHECK(!pair.app->has_eof);
  CHECK_EQ(lab.counter(Counter::kActiveFlows), 1u);
  pair.proxy->finish();
  CHECK(lab.until([&] { return pair.app->is_closed(); }, 100));
  CHECK(lab.until([&] { return lab.counter(Counter::kActiveFlows) == 0; }, 100));
}

TEST("half-close by the upstream keeps the other direction open") {
  CheckedLab lab;
  auto pair = lab.open();
  REQUIRE(pair);
  pair.proxy->send("bye");
  pair.proxy->finish();
  REQUIRE(lab.until([&] { return pair.app->has_eof; }, 100));
  CHECK_EQ(pair.app->received_text(), std::string("bye"));
  for (int i = 0; i < 20; i++) {
    lab.advance(10'000);
    pair.app->send(lab::pattern(1, 10'000, static_cast<uint64_t>(i) * 10'000));
  }
  REQUIRE(lab.until([&] { return pair.proxy->received.size() == 200'000; }));
  CHECK_EQ(lab::first_difference(pair.proxy->received, 1), -1);
  CHECK(!pair.proxy->has_eof);
  pair.app->close();
  CHECK(lab.until([&] { return pair.app->is_closed() && pair.proxy->has_eof; }, 100));
}

TEST("both ends closing at the same moment end cleanly") {
  for (bool is_v6 : kBothFamilies) {
    CheckedLab lab;
    auto pair = lab.open({.is_v6 = is_v6});
    REQUIRE(pair);
    // Neither FIN is seen before the other is sent.
    pair.proxy->finish();
    lab.engine().step(0, lab.now_ms());
    pair.app->close();
    CHECK(lab.until([&] { return pair.app->is_closed() && pair.proxy->has_eof; }, 1000));
    CHECK(lab.until([&] { return lab.stack().size() == 0; }, 2000));
    auto events = lab.events();
    CHECK_EQ(events.back().kind, relay::EventKind::kClosed);
    CHECK_EQ(events.back().error, 0);
  }
}

TEST("a FIN of the app's that rides on data is taken with it") {
  CheckedLab lab;
  auto pair = lab.open();
  REQUIRE(pair);
  pair.app->inject(lab::kAck | lab::kFin | lab::kPsh, pair.app->snd_nxt(), pair.app->rcv_nxt(),
                   lab::pattern(1, 100));
  REQUIRE(lab.until([&] { return pair.proxy->has_eof; }, 100));
  CHECK_EQ(pair.proxy->received.size(), 100u);
}

TEST("the upstream's FIN rides on its last data, whoever ended first") {
  for (bool app_is_first : {false, true}) {
    CheckedLab lab;
    auto pair = lab.open();
    REQUIRE(pair);
    AppTcp& app = *pair.app;
    if (app_is_first) app.close();
    lab.advance(100);
    uint32_t packets = app.packets_received;
    pair.proxy->send("answer");
    pair.proxy->finish();
    lab.engine().step(0, lab.now_ms());
    lab.apps.deliver();
    CHECK_EQ(app.packets_received, packets + 1);
    CHECK_EQ(app.last.payload.size(), 6u);
    CHECK(app.last.flags & lab::kFin);
    CHECK(app.has_eof);
    CHECK_EQ(app.received_text(), std::string("answer"));
  }
}

TEST("a FIN in the segment that completes the handshake is taken") {
  CheckedLab lab;
  AppTcp& app = lab.apps.connect();
  app.send("hello");
  app.close();
  REQUIRE(lab.until([&] { return lab.proxy_of(app) != nullptr; }));
  lab.proxy_of(app)->reply_ok();
  REQUIRE(lab.until([&] { return lab.proxy_of(app)->has_eof; }, 1000));
  CHECK_EQ(lab.proxy_of(app)->received_text(), std::string("hello"));
  lab.proxy_of(app)->finish();
  CHECK(lab.until([&] { return app.is_closed(); }, 1000));
}

TEST("an upstream that says 200 and closes in one breath gives a connection that ends") {
  for (size_t bytes : {size_t{0}, size_t{10}, size_t{300'000}}) {
    CheckedLab lab;
    AppTcp& app = lab.apps.connect();
    REQUIRE(lab.until([&] { return lab.proxy_of(app) != nullptr; }));
    lab.proxy_of(app)->reply_ok();
    lab.proxy_of(app)->send(lab::pattern(3, bytes));
    lab.proxy_of(app)->finish();
    REQUIRE(lab.until([&] { return app.has_eof; }, 1000));
    CHECK_EQ(app.received.size(), bytes);
    CHECK_EQ(lab::first_difference(app.received, 3), -1);
    app.close();
    CHECK(lab.until([&] { return app.is_closed(); }, 1000));
  }
}

TEST("a FIN waits until the window that is shut has let all data through") {
  for (uint32_t window : {5000u, 65'535u, 200'000u}) {
    CheckedLab lab;
    auto pair = lab.open({.window = window});
    REQUIRE(pair);
    pair.app->set_reading(false);
    pair.proxy->send(lab::pattern(1, 400'000));
    pair.proxy->finish();
    lab.advance(20'000);
    CHECK(!pair.app->has_eof);
    // The app reads a little now and then.
    while (!pair.app->has_eof && lab.now_ms() < 2'000'000) {
      pair.app->set_reading(true);
      pair.app->set_reading(false);
      lab.advance(100);
    }
    CHECK(pair.app->has_eof);
    CHECK_EQ(pair.app->received.size(), 400'000u);
    CHECK_EQ(lab::first_difference(pair.app->received, 1), -1);
  }
}

TEST("a window that shrinks under a FIN does not bring the end before the data") {
  CheckedLab lab;
  auto pair = lab.open();
  REQUIRE(pair);
  AppTcp& app = *pair.app;
  app.set_silent(true);
  pair.proxy->send(lab::pattern(1, 40'000));
  pair.proxy->finish();
  lab.settle();  // sent, FIN and all, and lost
  // A receiver should not shrink its window; one that does still gets its bytes. Newer numbers make
  // the smaller window count.
  uint32_t seq = app.snd_nxt();
  for (uint32_t i = 0; i < 3; i++)
    app.inject(lab::kAck, seq + i, app.rcv_nxt(), lab::pattern(0, 1), uint16_t{20});  // 2560 bytes
  lab.advance(2000);
  app.set_silent(false);
  REQUIRE(lab.until([&] { return app.has_eof; }, 60'000));
  CHECK_EQ(app.received.size(), 40'000u);
  CHECK_EQ(lab::first_difference(app.received, 1), -1);
}

TEST("the app's RST stays a RST") {
  for (bool has_unread : {false, true}) {
    CheckedLab lab({.dial = Dial::kTcp});
    auto pair = lab.open();
    REQUIRE(pair);
    if (has_unread) pair.proxy->set_reading(false);
    pair.app->send(lab::pattern(1, 50'000));
    lab.settle();
    pair.app->reset();
    lab.settle();
    pair.proxy->set_reading(true);
    REQUIRE(lab.until([&] { return has_ended(*pair.proxy); }, 1000));
    CHECK_EQ(pair.proxy->error, ECONNRESET);
    CHECK(lab.until([&] { return lab.counter(Counter::kActiveFlows) == 0; }, 1000));
    auto events = lab.events();
    CHECK_EQ(events.back().kind, relay::EventKind::kClosed);
    CHECK_EQ(events.back().error, ECONNRESET);
  }
}

// A read stops short at the urgent mark. Nobody asked for the byte itself, so it is left out.
TEST("what stands behind urgent data is not lost when the upstream's end is known already") {
  CheckedLab lab({.dial = Dial::kTcp});
  auto pair = lab.open();
  REQUIRE(pair);
  pair.proxy->send("before");
  pair.proxy->send_urgent('!');
  pair.proxy->send(" and behind");
  pair.proxy->finish();
  REQUIRE(lab.until([&] { return pair.app->has_eof; }, 2000));
  CHECK_EQ(pair.app->received_text(), std::string("before and behind"));
}

TEST("the upstream's RST stays a RST, never an end that looks complete") {
  for (size_t bytes : {size_t{0}, size_t{100}, size_t{1'000'000}}) {
    CheckedLab lab({.dial = Dial::kTcp});
    auto pair = lab.open();
    REQUIRE(pair);
    pair.proxy->send(lab::pattern(1, bytes));
    lab.settle();
    pair.proxy->reset();
    REQUIRE(lab.until([&] { return pair.app->was_reset; }, 2000));
    CHECK(!pair.app->has_eof);
    CHECK_EQ(lab::first_difference(pair.app->received, 1), -1);
    CHECK_EQ(lab.counter(Counter::kResetFlows), 1u);
  }
}

TEST("the upstream's RST reaches an app whose window is shut") {
  CheckedLab lab({.dial = Dial::kTcp});
  auto pair = lab.open({.window = 10'000});
  REQUIRE(pair);
  pair.app->set_reading(false);
  pair.proxy->send(lab::pattern(1, 1'000'000));
  lab.advance(1000);
  pair.proxy->reset();
  lab.advance(100);
  pair.app->set_reading(true);
  CHECK(lab.until([&] { return pair.app->was_reset; }, 30'000));
  CHECK(!pair.app->has_eof);
}

TEST("an upstream that closes without reading is a RST to the app that wrote") {
  CheckedLab lab({.dial = Dial::kTcp});
  auto pair = lab.open();
  REQUIRE(pair);
  pair.proxy->set_reading(false);
  pair.app->send(lab::pattern(1, 20'000));
  lab.advance(100);
  pair.proxy->close();
  CHECK(lab.until([&] { return pair.app->was_reset; }, 2000));
}

TEST("an app that goes on writing to an upstream that is gone is reset") {
  CheckedLab lab({.dial = Dial::kTcp});
  auto pair = lab.open();
  REQUIRE(pair);
  pair.proxy->close();
  REQUIRE(lab.until([&] { return pair.app->has_eof; }, 2000));
  pair.app->send("are you there?");
  lab.advance(50);
  pair.app->send("hello?");
  CHECK(lab.until([&] { return pair.app->was_reset; }, 2000));
}

TEST("a new SYN on a port in TIME_WAIT is served at once, whatever its number") {
  for (uint32_t step : {1u, 100'000u, 0x80000001u, 0xfff00000u}) {
    CheckedLab lab;
    uint32_t seq = 0xfffffc00;
    for (int i = 0; i < 5; i++, seq += step) {
      auto pair = lab.open({.port = 5000, .initial_seq = seq});
      REQUIRE(pair);
      pair.proxy->send("x");
      pair.proxy->finish();  // the origin closes first, so TIME_WAIT is ours
      REQUIRE(lab.until([&] { return pair.app->has_eof; }, 100));
      pair.app->close();
      REQUIRE(lab.until([&] { return pair.app->is_closed(); }, 100));
      CHECK(lab.stack().size() >= 1u);
      CHECK_EQ(lab.counter(Counter::kActiveFlows), 0u);
    }
    CHECK_EQ(lab.counter(Counter::kOpenedFlows), 5u);
    lab.advance(1500);
    CHECK_EQ(lab.stack().size(), 0u);
  }
}

TEST("a new SYN on a port whose app closed first is served at once too") {
  CheckedLab lab;
  for (int i = 0; i < 5; i++) {
    auto pair = lab.open({.port = 5000, .initial_seq = 1000u * static_cast<uint32_t>(i)});
    REQUIRE(pair);
    pair.app->close();
    REQUIRE(lab.until([&] { return pair.proxy->has_eof; }, 100));
    pair.proxy->finish();
    REQUIRE(lab.until([&] { return pair.app->is_closed(); }, 100));
  }
  CHECK_EQ(lab.stack().size(), 0u);
}

TEST("in TIME_WAIT a repeated FIN is acknowledged again, a RST is not obeyed") {
  CheckedLab lab;
  auto pair = lab.open();
  REQUIRE(pair);
  pair.proxy->finish();
  REQUIRE(lab.until([&] { return pair.app->has_eof; }, 100));
  pair.app->close();
  REQUIRE(lab.until([&] { return pair.app->is_closed(); }, 100));
  lab.advance(500);
  AppTcp& app = *pair.app;
  app.inject(lab::kRst, app.snd_nxt(), 0);
  uint32_t before = app.packets_received;
  app.inject(lab::kFin | lab::kAck, app.snd_nxt() - 1, app.rcv_nxt());
  lab.settle();
  CHECK_EQ(app.packets_received, before + 1);
  CHECK_EQ(app.last.ack, app.snd_nxt());
}

TEST("data for a slow upstream outlives the app, though its port is used again") {
  CheckedLab lab;
  lab.proxy.engine_send_buffer = 1;  // the kernel's least
  auto old = lab.open({.port = 5000});
  REQUIRE(old);
  old.proxy->set_reading(false);
  old.proxy->finish();
  old.app->send(lab::pattern(1, 60'000));
  old.app->close();
  REQUIRE(lab.until([&] { return old.app->is_closed(); }, 100));
  lab.advance(3000);
  CHECK(lab.counter(Counter::kBufferedBytes) > 50'000u);
  CHECK_EQ(lab.stack().size(), 1u);
  auto again = lab.open({.port = 5000, .initial_seq = 1});
  REQUIRE(again);
  exchange(lab, again, 1000, 1000);
  old.proxy->set_reading(true);
  CHECK(lab.until([&] { return old.proxy->has_eof; }, 10'000));
  CHECK_EQ(old.proxy->received.size(), 60'000u);
  CHECK_EQ(lab::first_difference(old.proxy->received, 1), -1);
}

TEST("a flow whose port was taken over is gone with the engine all the same") {
  Lab lab;  // the engine ends here: nothing to look at afterwards but ASan
  lab.proxy.engine_send_buffer = 1;
  auto old = lab.open({.port = 5000});
  REQUIRE(old);
  old.proxy->set_reading(false);
  old.proxy->finish();
  old.app->send(lab::pattern(1, 60'000));
  old.app->close();
  REQUIRE(lab.until([&] { return old.app->is_closed(); }, 100));
  lab.advance(1500);
  REQUIRE(lab.open({.port = 5000, .initial_seq = 1}));
  lab.destroy_engine();
  old.proxy->set_reading(true);
  while (old.proxy->pump()) continue;
  CHECK(has_ended(*old.proxy));
}

TEST("a last ACK that never comes ends in cleanup, not in an entry for ever") {
  for (bool app_closes_first : {true, false}) {
    LabOptions options;
    options.engine.relay.keepalive_ms = 0;  // which would notice sooner
    CheckedLab lab(options);
    auto pair = lab.open();
    REQUIRE(pair);
    if (app_closes_first) {
      pair.app->close();
      REQUIRE(lab.until([&] { return pair.proxy->has_eof; }, 100));
      pair.app->set_silent(true);
    } else {
      pair.app->set_silent(true);
    }
    pair.proxy->finish();
    CHECK(lab.until([&] { return lab.stack().size() == 0; }, 600'000));
    CHECK_EQ(lab.counter(Counter::kGivenUpFlows), 1u);
    CHECK_EQ(lab.counter(Counter::kActiveFlows), 0u);
  }
}

TEST("an app silent for a minute before the last ACK is served when it comes back") {
  LabOptions options;
  options.engine.relay.keepalive_ms = 0;
  CheckedLab lab(options);
  auto pair = lab.open();
  REQUIRE(pair);
  pair.app->close();
  REQUIRE(lab.until([&] { return pair.proxy->has_eof && pair.app->fin_is_acked(); }, 100));
  pair.app->set_silent(true);
  pair.proxy->finish();
  lab.advance(60'000);
  pair.app->set_silent(false);
  CHECK(lab.until([&] { return pair.app->is_closed(); }, 20'000));
  CHECK(lab.until([&] { return lab.stack().size() == 0; }, 2000));
  CHECK(!pair.app->was_reset);
  CHECK_EQ(lab.counter(Counter::kGivenUpFlows), 0u);
}

TEST("an app that vanishes in mid-transfer is given up, reset, and so is its upstream") {
  for (uint32_t keepalive_ms : {0u, 60'000u}) {
    for (bool is_shut : {false, true}) {
      LabOptions options;
      options.engine.relay.keepalive_ms = keepalive_ms;
      CheckedLab lab(options);
      auto pair = lab.open({.window = is_shut ? 20'000u : 1u << 20});
      REQUIRE(pair);
      pair.app->set_reading(!is_shut);
      pair.proxy->send(lab::pattern(1, 100'000));
      if (is_shut) lab.advance(1000);  // then nothing is under way but probes
      pair.app->set_silent(true);
      CHECK(lab.until([&] { return lab.stack().size() == 0; }, 900'000));
      CHECK(lab.until([&] { return has_ended(*pair.proxy); }, 1000));
      CHECK(pair.app->last_on_wire.flags & lab::kRst);
    }
  }
}

TEST("a small flow that has ended in order gives its socket back, whoever ended first") {
  for (bool app_is_first : {false, true}) {
    CheckedLab lab;
    auto pair = lab.open();
    REQUIRE(pair);
    pair.app->send("GET /");
    if (app_is_first) pair.app->close();
    REQUIRE(lab.until([&] { return pair.proxy->received_text() == "GET /"; }, 100));
    pair.proxy->send("hello");
    pair.proxy->finish();
    REQUIRE(lab.until([&] { return pair.app->received_text() == "hello"; }, 100));
    CHECK_EQ(lab.proxy.recycled, app_is_first ? 1u : 0u);
    if (!app_is_first) pair.app->close();
    CHECK(lab.until([&] { return pair.app->is_closed() && pair.proxy->has_eof; }, 100));
    CHECK(lab.until([&] { return lab.proxy.recycled == 1; }, 100));
  }
}

TEST("a socket with buffers that have grown is closed, not given back") {
  CheckedLab lab;
  auto pair = lab.open();
  REQUIRE(pair);
  exchange(lab, pair, 1000, 1'000'000);
  lab.advance(5000);
  CHECK_EQ(lab.proxy.recycled, 0u);
}

TEST("a socket of a flow that was reset is closed, not given back") {
  CheckedLab lab;
  auto pair = lab.open();
  REQUIRE(pair);
  pair.proxy->finish();
  REQUIRE(lab.until([&] { return pair.app->has_eof; }, 100));
  pair.app->reset();
  CHECK(lab.until([&] { return lab.counter(Counter::kActiveFlows) == 0; }, 100));
  CHECK_EQ(lab.proxy.recycled, 0u);
}

TEST("CLOSE_WAIT does not pile up: apps that close are gone once their upstreams are") {
  CheckedLab lab;
  std::vector<Lab::Pair> pairs;
  for (int i = 0; i < 200; i++) {
    pairs.push_back(lab.open());
    REQUIRE(pairs.back());
    pairs.back().app->close();
  }
  lab.advance(1000);
  for (auto& p : pairs) CHECK(p.proxy->has_eof);
  for (auto& p : pairs) p.proxy->close();
  CHECK(lab.until([&] { return lab.stack().size() == 0; }, 1500));
  CHECK_EQ(lab.counter(Counter::kActiveFlows), 0u);
}

TEST("stopping resets every app and lets go of every upstream") {
  Lab lab;
  auto pair = lab.open();
  AppTcp& held = lab.apps.connect();
  lab.settle();
  REQUIRE(pair && lab.proxy_of(held));
  lab.destroy_engine();
  lab.apps.deliver();
  CHECK(pair.app->was_reset);
  CHECK(held.was_refused);
  for (auto& end : lab.proxy.ends) {
    end->pump();
    CHECK(has_ended(*end));
  }
  CHECK_EQ(lab.complaints(), std::string());
}

TEST("stopping while an acknowledgement waits for an answer to ride on leaves nothing behind") {
  Lab lab;  // nothing to look at afterwards but ASan
  auto pair = lab.open();
  REQUIRE(pair);
  pair.app->send("question");
  lab.engine().step(0, lab.now_ms());
  lab.destroy_engine();
  lab.apps.deliver();
  CHECK(pair.app->was_reset);
}
