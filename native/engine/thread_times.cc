#include "engine/thread_times.h"

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <utility>

namespace engine {
namespace {

uint32_t thousandths(uint64_t part_ns, uint64_t whole_ms) {
  return static_cast<uint32_t>(std::min<uint64_t>(part_ns / (whole_ms * 1000), 1000));
}

}  // namespace

std::optional<ThreadShare> ThreadTimes::take(uint64_t now_ms) {
  uint64_t elapsed_ms = now_ms - since_ms_;
  if (elapsed_ms < kWindowMs) return {};
  std::optional<Times> now = read_times();
  if (!now) return {};
  bool is_first = since_ms_ == 0;
  Times before = std::exchange(last_, *now);
  since_ms_ = now_ms;
  if (is_first) return {};
  return ThreadShare{thousandths(now->ran_ns - before.ran_ns, elapsed_ms),
                     thousandths(now->waited_ns - before.waited_ns, elapsed_ms), sched_getcpu()};
}

std::optional<ThreadTimes::Times> ThreadTimes::read_times() {
  if (!is_open_) {
    is_open_ = true;
    file_.reset(open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC));
  }
  char text[96];
  ssize_t length = file_ ? pread(file_.get(), text, sizeof text - 1, 0) : -1;
  if (length <= 0) return {};
  text[length] = '\0';
  Times times;
  if (sscanf(text, "%" SCNu64 " %" SCNu64, &times.ran_ns, &times.waited_ns) != 2) return {};
  return times;
}

void go_to_processor(int processor) {
  cpu_set_t allowed, one;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  if (processor < 0 || processor >= CPU_SETSIZE || !CPU_ISSET(processor, &allowed)) return;
  CPU_ZERO(&one);
  CPU_SET(processor, &one);
  if (sched_setaffinity(0, sizeof one, &one) == 0) sched_setaffinity(0, sizeof allowed, &allowed);
}

}  // namespace engine
