// When the engine polls instead of sleeping: a guess, which must not cost much where it is wrong.
#include "engine/short_waits.h"

#include "engine/queue_group.h"
#include "harness.h"

using engine::QueueGroup;
using engine::ShortWaits;

namespace {

constexpr uint64_t kShort = 20'000;  // ns
constexpr uint64_t kLong = 5'000'000;

// Short sleeps until the next one is to be polled for, at most `limit`.
int sleeps_until_expected(ShortWaits& waits, int limit = 10'000) {
  int n = 0;
  for (; n < limit && !waits.is_next_expected(); n++) waits.slept(kShort);
  return n;
}

}  // namespace

TEST("who has not waited, or waits long, does not poll") {
  ShortWaits waits;
  CHECK(!waits.is_next_expected());
  for (int i = 0; i < 1000; i++) waits.slept(kLong);
  CHECK(!waits.is_next_expected());
}

TEST("one long wait among short ones, again and again, is no ping-pong") {
  ShortWaits waits;
  for (int i = 0; i < 1000; i++) {
    waits.slept(i % 5 ? kShort : kLong);
    CHECK(!waits.is_next_expected());
  }
}

TEST("a few short waits in a row, and the next is polled for, as long as it comes") {
  ShortWaits waits;
  int few = sleeps_until_expected(waits);
  CHECK(few > 1 && few < 20);
  for (int i = 0; i < 1000; i++) {
    waits.polled(false);
    CHECK(waits.is_next_expected());
  }
}

TEST("a poll in vain is the last, until twice as many waits were short") {
  ShortWaits waits;
  int few = sleeps_until_expected(waits);
  waits.polled(true);
  CHECK(!waits.is_next_expected());
  CHECK_EQ(sleeps_until_expected(waits), 2 * few);
}

TEST("who always polls in vain hardly polls, but is not given up") {
  ShortWaits waits;
  int sleeps = 0, polls = 0;
  for (; polls < 100; polls++) {
    sleeps += sleeps_until_expected(waits);
    REQUIRE(waits.is_next_expected());
    waits.polled(true);
  }
  CHECK(sleeps > 100 * polls);
}

TEST("polls that find something make up for those in vain") {
  ShortWaits waits;
  int few = sleeps_until_expected(waits);
  for (int i = 0; i < 5; i++) {
    waits.polled(true);
    sleeps_until_expected(waits);
  }
  for (int i = 0; i < 100; i++) waits.polled(false);
  waits.polled(true);
  CHECK_EQ(sleeps_until_expected(waits), 2 * few);
}

TEST("what came in between makes the waits before it worthless") {
  ShortWaits waits;
  int few = sleeps_until_expected(waits);
  waits.forget();
  CHECK(!waits.is_next_expected());
  CHECK_EQ(sleeps_until_expected(waits), few);
}

TEST("half of the processors is left to those who are waited for") {
  QueueGroup four(4, 4);
  CHECK(four.begin_polling());
  CHECK(four.begin_polling());
  CHECK(!four.begin_polling());
  CHECK(!four.begin_polling());
  four.end_polling();
  CHECK(four.begin_polling());
}

TEST("on a single processor nobody polls") {
  QueueGroup one(4, 1);
  CHECK(!one.begin_polling());
  CHECK(!one.begin_polling());
}
