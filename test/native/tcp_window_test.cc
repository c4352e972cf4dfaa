// Windows both ways: shut, tiny, huge, scaled or not; and the memory that they bound.
#include "checked_lab.h"

using engine::Counter;
using lab::AppTcp;
using lab::CheckedLab;
using lab::Lab;
using lab::LabOptions;

namespace {

constexpr bool kBothFamilies[] = {false, true};

// The app reads what has come, once.
void read_once(AppTcp& app) {
  app.set_reading(true);
  app.set_reading(false);
}

}  // namespace

TEST("an app that stops reading stops the upstream, and loses nothing when it goes on") {
  for (bool is_v6 : kBothFamilies) {
    for (std::optional<uint8_t> scale : {std::optional<uint8_t>{}, std::optional<uint8_t>{7}}) {
      CheckedLab lab;
      auto pair = lab.open({.is_v6 = is_v6, .window_scale = scale, .window = 100'000});
      REQUIRE(pair);
      pair.app->set_reading(false);
      pair.proxy->send(lab::pattern(1, 10 << 20));
      lab.advance(5000);
      CHECK(pair.proxy->pending_bytes() > 5u << 20);  // not swallowed by the tunnel
      CHECK(lab.counter(Counter::kBufferedBytes) < 3u << 20);
      pair.app->set_reading(true);
      REQUIRE(lab.until([&] { return pair.app->received.size() == 10u << 20; }, 60'000));
      CHECK_EQ(lab::first_difference(pair.app->received, 1), -1);
    }
  }
}

TEST("an upstream that stops reading stops the app, and loses nothing when it goes on") {
  for (std::optional<uint8_t> scale : {std::optional<uint8_t>{}, std::optional<uint8_t>{7}}) {
    CheckedLab lab;
    auto pair = lab.open({.window_scale = scale, .segment_bytes = 65'000});
    REQUIRE(pair);
    pair.proxy->set_reading(false);
    pair.app->send(lab::pattern(1, 10 << 20));
    lab.advance(5000);
    CHECK(pair.app->unacked_bytes() > 5u << 20);
    CHECK(lab.driver().promised_bytes() <= 1u << 20);
    pair.proxy->set_reading(true);
    REQUIRE(lab.until([&] { return pair.proxy->received.size() == 10u << 20; }, 60'000));
    CHECK_EQ(lab::first_difference(pair.proxy->received, 1), -1);
  }
}

TEST("what is left of a window is filled at once, though the next segment is larger") {
  constexpr uint32_t kLargestSegment = 65'495;
  CheckedLab lab;
  auto pair = lab.open({.window = 200'000});
  REQUIRE(pair);
  pair.app->set_reading(false);
  pair.proxy->send(lab::pattern(1, 400'000));
  lab.settle();
  CHECK(pair.app->received.size() > 3 * kLargestSegment + 2048);
  CHECK(lab.driver().stats().stall_splits >= 1);
  CHECK_EQ(lab::first_difference(pair.app->received, 1), -1);
}

TEST("what the app's window allows is sent before anything is acknowledged") {
  CheckedLab lab;
  auto pair = lab.open();
  REQUIRE(pair);
  pair.proxy->send(lab::pattern(1, 900'000));
  do {
    lab.engine().step(0, lab.now_ms());
  } while (lab.proxy.pump() || lab.engine().timeout_ms() == 0);
  size_t sent = 0;
  for (const lab::Bytes& packet : lab.wire.from_engine)
    sent += lab::decode(packet).segment.payload.size();
  CHECK_EQ(sent, 900'000u);
  REQUIRE(lab.until([&] { return pair.app->received.size() == 900'000; }));
  CHECK_EQ(lab::first_difference(pair.app->received, 1), -1);
}

TEST("a window shut for an hour is probed, and opens again") {
  LabOptions options;
  options.engine.relay.keepalive_ms = 0;
  CheckedLab lab(options);
  auto pair = lab.open({.window = 20'000});
  REQUIRE(pair);
  pair.app->set_reading(false);
  pair.proxy->send(lab::pattern(1, 100'000));
  uint32_t before = pair.app->packets_received;
  lab.advance(3'600'000);
  CHECK(pair.app->packets_received > before + 10);
  CHECK(!pair.app->was_reset);
  pair.app->set_reading(true);
  REQUIRE(lab.until([&] { return pair.app->received.size() == 100'000; }, 1000));
  CHECK_EQ(lab::first_difference(pair.app->received, 1), -1);
}

TEST("a window update that is lost is made good by a probe") {
  CheckedLab lab;
  auto pair = lab.open({.window = 20'000});
  REQUIRE(pair);
  pair.app->set_reading(false);
  pair.proxy->send(lab::pattern(1, 100'000));
  lab.advance(1000);
  pair.app->set_silent(true);
  pair.app->set_reading(true);  // nobody hears of it
  pair.app->set_silent(false);
  CHECK(lab.until([&] { return pair.app->received.size() == 100'000; }, 10'000));
}

TEST("our own lost window update is made good when the app probes") {
  CheckedLab lab;
  lab.proxy.engine_send_buffer = 1;
  auto pair = lab.open();
  REQUIRE(pair);
  pair.proxy->set_reading(false);
  pair.app->send(lab::pattern(1, 500'000));
  REQUIRE(lab.until([&] { return pair.app->peer_window() == 0; }, 10'000));
  pair.proxy->set_reading(true);
  for (int i = 0; i < 20; i++) {
    lab.engine().step(0, lab.now_ms());
    lab.proxy.pump();
    lab.wire.from_engine.clear();  // lost
  }
  CHECK(lab.until([&] { return pair.proxy->received.size() == 500'000; }, 60'000));
  CHECK_EQ(lab::first_difference(pair.proxy->received, 1), -1);
}

TEST("windows of any size, without scaling and with every scale, carry both ways") {
  for (uint32_t window : {1u, 2u, 100u, 536u, 1459u, 1460u, 2047u, 2048u, 2049u, 4097u, 65'534u,
                          65'535u, 65'536u, 500'000u}) {
    for (int scale : {-1, 0, 1, 7, 14}) {
      CheckedLab lab;
      lab::AppOptions o;
      o.window = window;
      o.window_scale =
          scale < 0 ? std::nullopt : std::optional<uint8_t>(static_cast<uint8_t>(scale));
      auto pair = lab.open(o);
      REQUIRE(pair);
      size_t bytes = window < 500 ? 300 : 150'000;
      exchange(lab, pair, 10'000, bytes, 600'000);
    }
  }
}

TEST("an app that reads a little at a time through a small window gets every byte") {
  for (uint32_t window : {3000u, 10'000u, 65'535u}) {
    CheckedLab lab;
    auto pair = lab.open({.window = window});
    REQUIRE(pair);
    pair.app->set_reading(false);
    pair.proxy->send(lab::pattern(1, 500'000));
    pair.proxy->finish();
    for (int i = 0; i < 20'000 && !pair.app->has_eof; i++) {
      read_once(*pair.app);
      lab.advance(5);
    }
    CHECK_EQ(pair.app->received.size(), 500'000u);
    CHECK_EQ(lab::first_difference(pair.app->received, 1), -1);
  }
}

TEST("a trickle of small writes behind a shut window arrives once it opens") {
  for (size_t piece : {size_t{1}, size_t{10}, size_t{100}, size_t{1000}}) {
    CheckedLab lab;
    auto pair = lab.open({.window = 10'000});
    REQUIRE(pair);
    pair.app->set_reading(false);
    pair.proxy->send(lab::pattern(1, 10'000));
    lab.settle();
    uint64_t at = 10'000;
    for (int i = 0; i < 300; i++, at += piece) {
      pair.proxy->send(lab::pattern(1, piece, at));
      lab.settle();
    }
    lab.advance(2000);
    pair.app->set_reading(true);
    REQUIRE(lab.until([&] { return pair.app->received.size() == at; }, 5000));
    CHECK_EQ(lab::first_difference(pair.app->received, 1), -1);
  }
}

TEST("thousands of tiny writes behind a shut window, and a large one after them, arrive") {
  CheckedLab lab;
  auto pair = lab.open({.mss = std::nullopt, .window = 3000});
  REQUIRE(pair);
  pair.app->set_reading(false);
  pair.proxy->send(lab::pattern(1, 3000));
  lab.settle();
  uint64_t at = 3000;
  for (int i = 0; i < 18'000; i++, at++) {
    pair.proxy->send(lab::pattern(1, 1, at));
    lab.round();
  }
  pair.proxy->send(lab::pattern(1, 100'000, at));
  at += 100'000;
  lab.advance(500);
  pair.app->set_reading(true);
  REQUIRE(lab.until([&] { return pair.app->received.size() == at; }, 60'000));
  CHECK_EQ(lab::first_difference(pair.app->received, 1), -1);
}

TEST("a window of a few bytes is no reason to give up a download") {
  for (uint32_t window : {1u, 2u, 3u, 100u}) {
    CheckedLab lab;
    auto pair = lab.open({.window_scale = std::nullopt, .window = window});
    REQUIRE(pair);
    size_t bytes = window < 64 ? 200 : 20'000;  // a window for each persist timer is slow
    pair.proxy->send(lab::pattern(1, bytes));
    REQUIRE(lab.until([&] { return pair.app->received.size() == bytes; }, 600'000));
    CHECK_EQ(lab::first_difference(pair.app->received, 1), -1);
  }
}

TEST("a window that is none in the SYN and small afterwards carries every byte") {
  for (uint16_t first : {uint16_t{0}, uint16_t{1}}) {
    CheckedLab lab;
    AppTcp& app = lab.apps.prepare({.window_scale = std::nullopt, .window = 50});
    app.inject(lab::kSyn, app.initial_seq(), 0, {}, first);
    REQUIRE(lab.until([&] { return lab.proxy_of(app) != nullptr; }));
    lab.proxy_of(app)->reply_ok();
    // Written before the larger window is known.
    lab.proxy_of(app)->send(lab::pattern(1, 5000));
    lab.settle();
    lab.proxy_of(app)->send(lab::pattern(1, 5000, 5000));
    REQUIRE(lab.until([&] { return app.received.size() == 10'000; }, 120'000));
    CHECK_EQ(lab::first_difference(app.received, 1), -1);
  }
}

TEST("a trickle of small segments from the app to a shut upstream arrives once it reads") {
  for (uint32_t piece : {1u, 10u, 100u}) {
    CheckedLab lab;
    lab.proxy.engine_send_buffer = 1;
    auto pair = lab.open({.segment_bytes = piece});
    REQUIRE(pair);
    pair.proxy->set_reading(false);
    pair.app->send(lab::pattern(1, 60'000));
    lab.advance(3000);
    pair.proxy->set_reading(true);
    REQUIRE(lab.until([&] { return pair.proxy->received.size() == 60'000; }, 60'000));
    CHECK_EQ(lab::first_difference(pair.proxy->received, 1), -1);
  }
}

TEST("the receive window grows with the flow, up to its largest") {
  LabOptions options;
  options.engine.driver.windows.first = 65'535;
  options.engine.driver.windows.largest = 512 * 1024;
  CheckedLab lab(options);
  auto pair = lab.open({.segment_bytes = 65'000});
  REQUIRE(pair);
  uint32_t largest = 0;
  pair.app->send(lab::pattern(1, 20 << 20));
  CHECK(lab.until(
      [&] {
        largest = std::max(largest, pair.app->peer_window());
        return pair.proxy->received.size() == 20u << 20;
      },
      60'000));
  CHECK(largest > 400u * 1024 && largest <= 512u * 1024 + 128);
  CHECK(lab.driver().promised_bytes() <= 512u * 1024);
}

TEST("without scaling the receive window never says more than 65535") {
  CheckedLab lab;
  auto pair = lab.open({.window_scale = std::nullopt});
  REQUIRE(pair);
  pair.app->send(lab::pattern(1, 5 << 20));
  CHECK(lab.until([&] { return pair.proxy->received.size() == 5u << 20; }, 60'000));
  CHECK(lab.driver().promised_bytes() <= 65'535u);
}

TEST("the sum of all receive windows keeps to the limit, and nobody starves under it") {
  LabOptions options;
  options.engine.driver.windows.sum = 2 << 20;
  CheckedLab lab(options);
  lab.proxy.engine_send_buffer = 1;
  std::vector<Lab::Pair> pairs;
  uint64_t most = 0;
  for (uint32_t i = 0; i < 200; i++) {
    pairs.push_back(lab.open({.segment_bytes = 10'000}));
    REQUIRE(pairs.back());
    if (i % 2) pairs.back().proxy->set_reading(false);
    pairs.back().app->send(lab::pattern(i, 300'000));
    lab.settle();
    most = std::max(most, lab.driver().promised_bytes());
  }
  // Whoever comes when the limit is reached still gets the smallest window.
  CHECK(most <= (2u << 20) + 200 * 4096);
  CHECK(lab.until(
      [&] {
        for (uint32_t i = 0; i < 200; i += 2)
          if (pairs[i].proxy->received.size() != 300'000) return false;
        return true;
      },
      120'000));
  CHECK(lab.driver().promised_bytes() <= 2u << 20);  // those that move have given back
  CHECK(lab.counter(Counter::kBufferedBytes) < 8u << 20);
  for (auto& p : pairs) p.proxy->set_reading(true);
  CHECK(lab.until(
      [&] {
        for (auto& p : pairs)
          if (p.proxy->received.size() != 300'000) return false;
        return true;
      },
      120'000));
  for (uint32_t i = 0; i < 200; i++)
    CHECK_EQ(lab::first_difference(pairs[i].proxy->received, i), -1);
}

TEST("windows lowered under pressure never shut a connection for good") {
  LabOptions options;
  options.engine.driver.windows.sum = 300'000;
  CheckedLab lab(options);
  lab.proxy.engine_send_buffer = 1;
  std::vector<Lab::Pair> pairs;
  for (uint32_t i = 0; i < 100; i++) {  // 100 times 4 KiB is more than the limit
    pairs.push_back(lab.open());
    REQUIRE(pairs.back());
  }
  for (uint32_t i = 0; i < 100; i++) exchange(lab, pairs[i], 50'000, 50'000);
}

TEST("what a window allowed before it was lowered is announced all the same") {
  LabOptions options;
  options.engine.driver.windows.sum = 1 << 20;
  CheckedLab lab(options);
  auto pair = lab.open();
  REQUIRE(pair);
  pair.app->send(lab::pattern(9, 30'000));  // too little for a new announcement
  lab.settle();
  std::vector<Lab::Pair> others;
  while (lab.driver().promised_bytes() <= options.engine.driver.windows.sum + 65'535) {
    others.push_back(lab.open());
    REQUIRE(others.back());
  }
  // Each of them lowers the window.
  for (int i = 0; i < 5; i++) {
    pair.app->send("a");
    lab.settle();
  }
  REQUIRE(pair.proxy->received.size() == 30'005);
  pair.proxy->received.clear();
  lab::Bytes data = lab::pattern(3, 100'000);
  pair.app->send(data);
  CHECK(lab.until([&] { return pair.proxy->received.size() == data.size(); }, 60'000));
  CHECK(pair.proxy->received == data);
}

TEST("200 stalled downloads keep to the limit, and one live one goes on") {
  LabOptions options;
  options.engine.relay.send_limit = 8 << 20;
  options.engine.relay.keepalive_ms = 0;
  CheckedLab lab(options);
  std::vector<Lab::Pair> stalled;
  for (uint32_t i = 0; i < 200; i++) {
    stalled.push_back(lab.open({.window = 20'000}));
    REQUIRE(stalled.back());
    stalled.back().app->set_reading(false);
    stalled.back().proxy->send(lab::pattern(i, 300'000));
  }
  lab.advance(3000);
  uint64_t held = lab.counter(Counter::kBufferedBytes);
  // Each may hold what it had read when the limit was reached, and a little more.
  CHECK(held <= (8u << 20) + 200 * (64u * 1024 + 4096));
  auto live = lab.open();
  REQUIRE(live);
  exchange(lab, live, 1000, 2 << 20, 300'000);
  for (auto& p : stalled) p.app->set_reading(true);
  CHECK(lab.until(
      [&] {
        for (auto& p : stalled)
          if (p.app->received.size() != 300'000) return false;
        return true;
      },
      300'000));
  for (uint32_t i = 0; i < 200; i++)
    CHECK_EQ(lab::first_difference(stalled[i].app->received, i), -1);
}

TEST("one flow's queue towards the app is bounded, though nobody else wants the memory") {
  CheckedLab lab;
  auto pair = lab.open({.window = 4 << 20});
  REQUIRE(pair);
  pair.app->set_silent(true);
  pair.proxy->send(lab::pattern(1, 16 << 20));
  lab.advance(300);
  CHECK(lab.counter(Counter::kBufferedBytes) <= 2100u * 1024);
  pair.app->set_silent(false);
  CHECK(lab.until([&] { return pair.app->received.size() == 16u << 20; }, 60'000));
  CHECK_EQ(lab::first_difference(pair.app->received, 1), -1);
}

TEST("a sender that ignores the window does not fill our memory") {
  CheckedLab lab;
  lab.proxy.engine_send_buffer = 1;
  auto pair = lab.open();
  REQUIRE(pair);
  pair.proxy->set_reading(false);
  AppTcp& app = *pair.app;
  app.set_silent(true);
  uint32_t seq = app.snd_nxt();
  for (uint32_t i = 1; i < 1000; i++) {  // the first is missing, so none can be passed on
    app.inject(lab::kAck, seq + i * 5000, app.rcv_nxt(), lab::pattern(1, 5000, i * 5000ull));
    if (i % 50 == 0) lab.settle();
  }
  lab.settle();
  // Data out of order lies in buffers of 64 KiB each, a window's worth of them.
  CHECK(lab.counter(Counter::kBufferedBytes) > 50'000u);
  CHECK(lab.counter(Counter::kBufferedBytes) < 2u << 20);
  app.set_silent(false);
  app.send(lab::pattern(1, 200'000));
  pair.proxy->set_reading(true);
  CHECK(lab.until([&] { return pair.proxy->received.size() == 200'000; }, 30'000));
  CHECK_EQ(lab::first_difference(pair.proxy->received, 1), -1);
}
