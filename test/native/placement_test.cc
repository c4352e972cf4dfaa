// Engines that wait for a processor go where another one has time to spare.
#include "engine/placement.h"

#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "engine/engine.h"
#include "engine/queue_group.h"
#include "engine/thread_times.h"
#include "harness.h"

using engine::QueueGroup;
using engine::should_join;
using engine::ThreadShare;
using engine::ThreadTimes;

namespace {

constexpr uint64_t kStartMs = 1'000'000;
constexpr ThreadShare kCrowded{.ran = 330, .waited = 650, .processor = 0};
constexpr ThreadShare kRelaxed{.ran = 550, .waited = 60, .processor = 1};
constexpr ThreadShare kContended{.ran = 520, .waited = 430, .processor = 1};
constexpr ThreadShare kBusy{.ran = 950, .waited = 30, .processor = 1};

cpu_set_t allowed() {
  cpu_set_t set;
  sched_getaffinity(0, sizeof set, &set);
  return set;
}

int other_processor() {
  cpu_set_t set = allowed();
  for (int i = 0; i < CPU_SETSIZE; i++)
    if (CPU_ISSET(i, &set) && i != sched_getcpu()) return i;
  return -1;
}

}  // namespace

TEST("an engine that mostly waits joins one that hardly waits and has time to spare") {
  CHECK(should_join(kCrowded, kRelaxed));
  CHECK(!should_join(kRelaxed, kCrowded));
}

TEST("engines that all wait, or one that is busy alone, stay where they are") {
  ThreadShare waiting = kContended;
  waiting.processor = 0;
  CHECK(!should_join(waiting, kContended));
  CHECK(!should_join(kCrowded, kContended));
  CHECK(!should_join(kCrowded, kBusy));
}

TEST("nobody is sent to the processor it is on, or to an unknown one") {
  ThreadShare near = kRelaxed;
  near.processor = kCrowded.processor;
  CHECK(!should_join(kCrowded, near));
  near.processor = -1;
  CHECK(!should_join(kCrowded, near));
}

TEST("a group sends one engine at a time, and only to what was told lately") {
  QueueGroup group(3);
  CHECK_EQ(group.place(0, kCrowded, kStartMs), -1);
  CHECK_EQ(group.place(1, kRelaxed, kStartMs), -1);
  CHECK_EQ(group.place(0, kCrowded, kStartMs + 50), 1);
  CHECK_EQ(group.place(2, kCrowded, kStartMs + 50), -1);
  CHECK_EQ(group.place(1, kRelaxed, kStartMs + 60), -1);
  CHECK_EQ(group.place(2, kCrowded, kStartMs + 400), -1);
}

TEST("the kernel tells how long a thread waited for its processor") {
  REQUIRE(access("/proc/thread-self/schedstat", R_OK) == 0);  // or the loop below would not end
  std::atomic<bool> is_over{false}, has_waited{false};
  // Two that never sleep, on one processor.
  auto spin = [&](bool is_judged) {
    int processor = sched_getcpu();
    static std::atomic<int> chosen{-1};
    int none = -1;
    chosen.compare_exchange_strong(none, processor);
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(chosen, &one);
    sched_setaffinity(0, sizeof one, &one);
    ThreadTimes times;
    while (!is_over) {
      if (!is_judged) continue;
      auto share = times.take(engine::monotonic_ms());
      if (!share || share->ran < 100 || share->waited < 100) continue;
      has_waited = share->ran + share->waited <= 1100 && share->processor == chosen;
      is_over = true;
    }
  };
  std::thread rival(spin, false), judged(spin, true);
  judged.join();
  rival.join();
  CHECK(has_waited);
}

TEST("no share is told before a window has passed") {
  ThreadTimes times;
  CHECK(!times.take(kStartMs).has_value());
  CHECK(!times.take(kStartMs + ThreadTimes::kWindowMs - 1).has_value());
  CHECK(times.take(kStartMs + ThreadTimes::kWindowMs).has_value());
  CHECK(!times.take(kStartMs + ThreadTimes::kWindowMs + 1).has_value());
}

TEST("a thread goes to the processor it is sent to") {
  if (other_processor() < 0) return;  // there is only one
  constexpr int kTimes = 100;
  int arrived = 0;
  std::thread([&arrived] {
    for (int i = 0; i < kTimes; i++) {
      int there = other_processor();
      engine::go_to_processor(there);
      arrived += sched_getcpu() == there;
    }
  }).join();
  CHECK(arrived > kTimes / 2);  // the kernel may move it on at once
}

TEST("where a thread may run is the same afterwards, and where it might not go to") {
  std::thread([] {
    cpu_set_t before = allowed();
    int elsewhere = other_processor();
    engine::go_to_processor(elsewhere);
    cpu_set_t after = allowed();
    CHECK(CPU_EQUAL(&before, &after));
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    sched_setaffinity(0, sizeof one, &one);
    engine::go_to_processor(elsewhere);
    engine::go_to_processor(-1);
    engine::go_to_processor(CPU_SETSIZE);
    after = allowed();
    CHECK(CPU_EQUAL(&one, &after));
  }).join();
}
