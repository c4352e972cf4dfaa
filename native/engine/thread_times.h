// How long the calling thread ran and how long it waited for a processor, as the kernel counts it
// (/proc/thread-self/schedstat, Documentation/scheduler/sched-stats.rst in the kernel's sources).
#pragma once
#include <cstdint>
#include <optional>

#include "base/unique_fd.h"
#include "engine/placement.h"

namespace engine {

class ThreadTimes {
 public:
  static constexpr uint64_t kWindowMs = 50;

  /// Of the time since the last answer.
  /// @return nothing before kWindowMs have passed, or where the kernel does not count
  std::optional<ThreadShare> take(uint64_t now_ms);

 private:
  struct Times {
    uint64_t ran_ns = 0, waited_ns = 0;
  };
  std::optional<Times> read_times();

  base::UniqueFd file_;  // of the thread that asked first
  bool is_open_ = false;
  uint64_t since_ms_ = 0;
  Times last_;
};

/// Sends the calling thread to a processor, and leaves it free to be moved on from there. Without
/// effect where it may not run there.
void go_to_processor(int processor);

}  // namespace engine
