// Long streams of which the kernel tells when much waits: nothing of them waits for ever.
#include "checked_lab.h"

using engine::Counter;
using lab::CheckedLab;
using lab::Dial;
using lab::Lab;

namespace {

constexpr size_t kLong = 16 << 20;
constexpr uint64_t kSoonMs = 20;

// A stream long and fast enough to be gathered, all of which has arrived.
Lab::Pair open_stream(CheckedLab& lab) {
  auto pair = lab.open({.window = 4 << 20});
  if (!pair) return pair;
  pair.proxy->send(lab::pattern(1, kLong));
  CHECK(lab.until([&] { return pair.app->received.size() == kLong; }, 5000));
  CHECK(lab.stats().gathered > 0);
  return pair;
}

bool has_received(const Lab::Pair& pair, size_t bytes) {
  return pair.app->received.size() == bytes && lab::first_difference(pair.app->received, 1) == -1;
}

}  // namespace

TEST("the rest of a long stream arrives soon, however little it is") {
  CheckedLab lab({.dial = Dial::kTcp});
  auto pair = open_stream(lab);
  REQUIRE(pair);
  size_t sent = kLong;
  for (size_t rest : {1u, 100u, 100'000u, 700'000u}) {
    pair.proxy->send(lab::pattern(1, rest, sent));
    sent += rest;
    CHECK(lab.until([&] { return has_received(pair, sent); }, kSoonMs));
  }
}

TEST("after a pause every byte is told of at once") {
  CheckedLab lab({.dial = Dial::kTcp});
  auto pair = open_stream(lab);
  REQUIRE(pair);
  lab.advance(100);
  pair.proxy->send(lab::pattern(1, 1, kLong));
  lab.settle();
  CHECK(has_received(pair, kLong + 1));
}

TEST("when the app has asked for something, every byte is told of at once") {
  CheckedLab lab({.dial = Dial::kTcp});
  auto pair = open_stream(lab);
  REQUIRE(pair);
  pair.app->send("more");
  lab.settle();
  pair.proxy->send(lab::pattern(1, 1, kLong));
  lab.settle();
  CHECK(has_received(pair, kLong + 1));
}

TEST("the end of a long stream arrives, with and without a rest before it") {
  for (size_t rest : {0u, 5000u}) {
    CheckedLab lab({.dial = Dial::kTcp});
    auto pair = open_stream(lab);
    REQUIRE(pair);
    pair.proxy->send(lab::pattern(1, rest, kLong));
    pair.proxy->finish();
    CHECK(lab.until([&] { return pair.app->has_eof; }, kSoonMs));
    CHECK(has_received(pair, kLong + rest));
  }
}

TEST("an app that stops reading costs no looking after, and gets the rest when it goes on") {
  CheckedLab lab({.dial = Dial::kTcp});
  auto pair = open_stream(lab);
  REQUIRE(pair);
  pair.app->set_reading(false);
  pair.proxy->send(lab::pattern(1, kLong, kLong));
  lab.advance(1000);
  CHECK(lab.engine().timeout_ms() != 0);
  CHECK(lab.engine().timeout_ms() == -1 || lab.engine().timeout_ms() > 5);
  pair.app->set_reading(true);
  CHECK(lab.until([&] { return has_received(pair, 2 * kLong); }, 5000));
}

TEST("an answer of a megabyte, one after the other, is never gathered") {
  CheckedLab lab({.dial = Dial::kTcp});
  auto pair = lab.open({.window = 4 << 20});
  REQUIRE(pair);
  size_t sent = 0;
  for (int i = 0; i < 30; i++) {
    pair.app->send("next");
    lab.settle();
    pair.proxy->send(lab::pattern(1, 1 << 20, sent));
    sent += 1 << 20;
    CHECK(lab.until([&] { return has_received(pair, sent); }, 1000));
  }
  CHECK_EQ(lab.stats().gathered, 0u);
}

TEST("streams that end and streams that are reset while they are gathered leave nothing") {
  CheckedLab lab({.dial = Dial::kTcp});
  for (int i = 0; i < 3; i++) {
    auto pair = open_stream(lab);
    REQUIRE(pair);
    pair.proxy->send(lab::pattern(1, kLong, kLong));
    lab.round();
    if (i == 0) pair.app->reset();
    if (i == 1) pair.proxy->reset();
  }
}
