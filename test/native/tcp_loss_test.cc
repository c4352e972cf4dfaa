// Packets lost, doubled and overtaken, both ways: every byte still arrives, once and in its place.
#include <algorithm>
#include <cerrno>

#include "checked_lab.h"

using engine::Counter;
using lab::CheckedLab;
using lab::Lab;
using lab::LabOptions;

namespace {

LabOptions faulty(tun::Faults faults) {
  LabOptions options;
  options.engine.faults = faults;
  return options;
}

struct Way {
  const char* name;
  size_t up, down;
};
constexpr Way kWays[] = {{"up", 2 << 20, 0}, {"down", 0, 2 << 20}, {"both", 1 << 20, 1 << 20}};

void survive(tun::Faults faults, uint32_t segment_bytes) {
  for (const Way& way : kWays) {
    CheckedLab lab(faulty(faults));
    lab.may_reorder = true;
    auto pair = lab.open({.segment_bytes = segment_bytes});
    REQUIRE(pair);
    exchange(lab, pair, way.up, way.down, 900'000);
    CHECK(!pair.app->was_reset);
    CHECK_EQ(lab.counter(Counter::kGivenUpFlows), 0u);
  }
}

constexpr uint64_t kOneWayMs = 10;
constexpr size_t kStreamBytes = 8 << 20;
constexpr size_t kSendBufferBytes = 1 << 20;

struct Cost {
  uint64_t ms = 0;  // of virtual time
  uint64_t timeouts = 0;
};

enum class Towards { kProxy, kApp };

// The program writes as its kernel takes it.
void upload(Lab& lab, const Lab::Pair& pair) {
  size_t written = 0;
  constexpr size_t kWriteBytes = kSendBufferBytes / 4;
  CHECK(lab.until(
      [&] {
        for (; written < kStreamBytes && pair.app->unacked_bytes() < kSendBufferBytes;
             written += kWriteBytes)
          pair.app->send(lab::pattern(1, kWriteBytes, written));
        return pair.proxy->received.size() == kStreamBytes;
      },
      900'000));
  CHECK_EQ(lab::first_difference(pair.proxy->received, 1), -1);
}

void download(Lab& lab, const Lab::Pair& pair) {
  pair.proxy->send(lab::pattern(1, kStreamBytes));
  CHECK(lab.until([&] { return pair.app->received.size() == kStreamBytes; }, 900'000));
  CHECK_EQ(lab::first_difference(pair.app->received, 1), -1);
}

// Streams to another host: packets of its MSS, a round trip of 20 ms. Without faults one of 8 MiB
// takes 220 ms down and 280 ms up.
Cost cost_of(Towards where, tun::Faults faults, std::initializer_list<uint64_t> seeds) {
  Cost cost;
  faults.cuts = true;
  for (uint64_t seed : seeds) {
    faults.seed = seed;
    CheckedLab lab(faulty(faults));
    lab.may_reorder = true;
    lab.apps.one_way_ms = kOneWayMs;
    auto pair = lab.open();
    CHECK(pair);
    if (!pair) continue;
    uint64_t began_ms = lab.now_ms();
    where == Towards::kApp ? download(lab, pair) : upload(lab, pair);
    CHECK(pair.app->largest_payload <= 1460);
    cost.ms += lab.now_ms() - began_ms;
    cost.timeouts += lab.driver().stats().timeouts + pair.app->timeouts;
  }
  return cost;
}

// Of the bounds below a half to two thirds is used. Were there a time-out for each lost packet, 24
// MiB would take 4 s and 30 s (one in a thousand, one in a hundred); were the window towards the
// app one super-segment from the first loss on, 2.5 s (one in a thousand).
void check_bound(Towards where, tun::Faults faults, uint64_t most_ms) {
  Cost cost = cost_of(where, faults, {7919, 15838, 23757});
  CHECK_EQ(std::max(cost.ms, most_ms), most_ms);
}

void check_no_timeout(Towards where, tun::Faults faults, uint64_t most_ms) {
  Cost cost = cost_of(where, faults, {7919});
  CHECK_EQ(cost.timeouts, 0u);
  CHECK_EQ(std::max(cost.ms, most_ms), most_ms);
}

}  // namespace

TEST("one packet in a thousand lost: uploads to a far host stay near their speed") {
  check_bound(Towards::kProxy, {.drop_one_in = 1000}, 3000);
}

TEST("one packet in a thousand lost: downloads from a far host stay near their speed") {
  check_bound(Towards::kApp, {.drop_one_in = 1000}, 2000);
}

TEST("one packet in a hundred lost: uploads do not wait for a time-out each time") {
  check_bound(Towards::kProxy, {.drop_one_in = 100}, 13'000);
}

TEST("one packet in a hundred lost: downloads do not wait for a time-out each time") {
  check_bound(Towards::kApp, {.drop_one_in = 100}, 8000);
}

TEST("packets doubled are no loss to either sender") {
  check_no_timeout(Towards::kProxy, {.duplicate_one_in = 3}, 600);
  check_no_timeout(Towards::kApp, {.duplicate_one_in = 3}, 500);
}

TEST("packets overtaken by the next are no loss to either sender") {
  check_no_timeout(Towards::kProxy, {.delay_one_in = 3}, 600);
  check_no_timeout(Towards::kApp, {.delay_one_in = 3}, 500);
}

TEST("one packet in a thousand lost, each way") {
  for (uint64_t seed : {1, 2, 3}) survive({.drop_one_in = 1000, .seed = seed * 7919}, 1460);
}

TEST("one packet in a hundred lost, each way") {
  for (uint64_t seed : {1, 2, 3}) survive({.drop_one_in = 100, .seed = seed * 104729}, 1460);
}

TEST("one packet in twenty lost, each way") {
  for (uint64_t seed : {1, 2, 3}) survive({.drop_one_in = 20, .seed = seed * 15485863}, 1460);
}

TEST("one super-segment in twenty lost, each way") {
  for (uint64_t seed : {4, 5, 6}) survive({.drop_one_in = 20, .seed = seed * 7919}, 60'000);
}

TEST("one packet in three doubled") {
  survive({.duplicate_one_in = 3, .seed = 99}, 1460);
  survive({.duplicate_one_in = 3, .seed = 98}, 60'000);
}

TEST("one packet in three overtaken by the next") {
  survive({.delay_one_in = 3, .seed = 77}, 1460);
  survive({.delay_one_in = 3, .seed = 76}, 60'000);
}

TEST("lost, doubled and overtaken at once, with every size of segment") {
  for (uint32_t segment_bytes : {100u, 1000u, 1460u, 9000u, 65'495u}) {
    for (uint64_t seed : {11, 12}) {
      tun::Faults faults{
          .drop_one_in = 30, .duplicate_one_in = 10, .delay_one_in = 10, .seed = seed * 7919};
      survive(faults, segment_bytes);
    }
  }
}

TEST("fifty connections opened, used and closed under loss end cleanly") {
  for (uint64_t seed : {21, 22, 23}) {
    CheckedLab lab(faulty({.drop_one_in = 10, .delay_one_in = 20, .seed = seed * 104729}));
    lab.may_reorder = true;
    std::vector<Lab::Pair> pairs;
    for (uint32_t i = 0; i < 50; i++) {
      pairs.push_back(lab.open({.is_v6 = i % 2 == 0}));
      REQUIRE(pairs.back());
      pairs.back().app->send(lab::pattern(i, 3000));
      pairs.back().proxy->send(lab::pattern(100 + i, 5000));
      if (i % 3) pairs.back().app->close();
      pairs.back().proxy->finish();
    }
    for (uint32_t i = 0; i < 50; i += 3) pairs[i].app->close();
    CHECK(lab.until(
        [&] {
          for (auto& p : pairs)
            if (!p.app->is_closed() || !p.proxy->has_eof) return false;
          return true;
        },
        300'000));
    for (uint32_t i = 0; i < 50; i++) {
      CHECK_EQ(pairs[i].proxy->received.size(), 3000u);
      CHECK_EQ(pairs[i].app->received.size(), 5000u);
      CHECK_EQ(lab::first_difference(pairs[i].proxy->received, i), -1);
      CHECK_EQ(lab::first_difference(pairs[i].app->received, 100 + i), -1);
    }
    CHECK(lab.until([&] { return lab.counter(Counter::kActiveFlows) == 0; }, 120'000));
  }
}

TEST("stalls of both readers under loss, with shut windows, lose nothing") {
  for (uint64_t seed : {31, 32, 33}) {
    CheckedLab lab(faulty({.drop_one_in = 50, .duplicate_one_in = 50, .seed = seed * 7919}));
    lab.may_reorder = true;
    lab.proxy.engine_send_buffer = 1;
    auto pair = lab.open({.window = 30'000});
    REQUIRE(pair);
    pair.app->send(lab::pattern(1, 500'000));
    pair.proxy->send(lab::pattern(2, 500'000));
    pair.app->close();
    pair.proxy->finish();
    bool reads = false;
    auto is_over = [&] { return pair.app->is_closed() && pair.proxy->has_eof; };
    for (int i = 0; i < 5000 && !is_over(); i++, reads = !reads) {
      pair.app->set_reading(reads);
      pair.proxy->set_reading(i % 3 == 0);
      lab.advance(200);
    }
    pair.app->set_reading(true);
    pair.proxy->set_reading(true);
    CHECK(lab.until(is_over, 300'000));
    CHECK_EQ(pair.proxy->received.size(), 500'000u);
    CHECK_EQ(pair.app->received.size(), 500'000u);
    CHECK_EQ(lab::first_difference(pair.proxy->received, 1), -1);
    CHECK_EQ(lab::first_difference(pair.app->received, 2), -1);
  }
}

TEST("300 streams of random sizes with random stalls: every byte in its place") {
  uint64_t random = 2463534242;
  auto next = [&](uint64_t below) {
    random ^= random << 13;
    random ^= random >> 7;
    random ^= random << 17;
    return (random >> 11) % below;
  };
  for (int batch = 0; batch < 10; batch++) {
    CheckedLab lab;
    struct Stream {
      Lab::Pair pair;
      size_t up, down;
    };
    std::vector<Stream> streams;
    for (int i = 0; i < 30; i++) {
      lab::AppOptions o{.is_v6 = next(2) == 0,
                        .window = static_cast<uint32_t>(2000 + next(500'000)),
                        .segment_bytes = static_cast<uint32_t>(100 + next(60'000))};
      Stream s{lab.open(o), static_cast<size_t>(next(1 << (1 + next(19)))),
               static_cast<size_t>(next(1 << (1 + next(19))))};
      REQUIRE(s.pair);
      s.pair.app->send(lab::pattern(1, s.up));
      s.pair.app->close();
      s.pair.proxy->send(lab::pattern(2, s.down));
      s.pair.proxy->finish();
      streams.push_back(s);
    }
    for (int i = 0; i < 200; i++) {
      Stream& s = streams[next(streams.size())];
      if (next(2)) {
        s.pair.app->set_reading(!s.pair.app->is_reading());
      } else {
        s.pair.proxy->set_reading(next(2));
      }
      lab.advance(next(30));
    }
    for (auto& s : streams) {
      s.pair.app->set_reading(true);
      s.pair.proxy->set_reading(true);
    }
    CHECK(lab.until(
        [&] {
          for (auto& s : streams)
            if (!s.pair.app->is_closed() || !s.pair.proxy->has_eof) return false;
          return true;
        },
        120'000));
    for (auto& s : streams) {
      CHECK_EQ(s.pair.proxy->received.size(), s.up);
      CHECK_EQ(s.pair.app->received.size(), s.down);
      CHECK_EQ(lab::first_difference(s.pair.proxy->received, 1), -1);
      CHECK_EQ(lab::first_difference(s.pair.app->received, 2), -1);
    }
  }
}

TEST("a device that refuses packets for a while loses nothing") {
  for (int error : {EAGAIN, ENOBUFS, EIO}) {
    CheckedLab lab;
    auto pair = lab.open();
    REQUIRE(pair);
    pair.proxy->send(lab::pattern(1, 1 << 20));
    pair.proxy->finish();
    lab.wire.write_error = error;
    for (int i = 0; i < 50 && !pair.app->has_eof; i++) {
      lab.wire.refused_writes = 1 + i % 5;
      lab.advance(50);
    }
    lab.wire.refused_writes = 0;
    CHECK(lab.until([&] { return pair.app->has_eof; }, 60'000));
    CHECK_EQ(pair.app->received.size(), 1u << 20);
    CHECK_EQ(lab::first_difference(pair.app->received, 1), -1);
    CHECK(lab.counter(Counter::kTunWriteErrors) > 0u);
  }
}
