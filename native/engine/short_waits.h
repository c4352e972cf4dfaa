// Whether the next event is worth polling for: a prediction from how long the last ones let wait.
//
// To sleep and be woken costs more than what is done with one small message, above all on a virtual
// machine, where it is an exit to the hypervisor for both sides. When one message is the answer to
// the other, the next event comes within microseconds, again and again. Only then polling is worth
// it, and no guess is repeated that did not come true: see also the guest halt poll governor,
// Documentation/virt/guest-halt-polling.rst of the kernel.
#pragma once
#include <algorithm>
#include <cstdint>

namespace engine {

class ShortWaits {
 public:
  /// How long a poll goes on.
  static constexpr uint64_t kPollNs = 50'000;

  bool is_next_expected() const { return in_a_row_ >= needed_; }

  /// The thread slept for `ns`, until something happened.
  void slept(uint64_t ns) { in_a_row_ = ns <= kShortSleepNs ? in_a_row_ + 1 : 0; }

  /// The thread polled; in vain, and it must learn anew, from twice as many waits.
  void polled(bool was_in_vain) {
    if (!was_in_vain) {
      if (++found_ >= kFoundToForgive) needed_ = kFewest;
      return;
    }
    found_ = in_a_row_ = 0;
    needed_ = std::min(needed_ * 2, kMost);
  }

  /// The next wait says nothing about those before.
  void forget() { in_a_row_ = 0; }

 private:
  static constexpr uint64_t kShortSleepNs = 100'000;  // half of it may be the waking up
  static constexpr uint32_t kFewest = 8;
  static constexpr uint32_t kMost = 256;
  static constexpr uint32_t kFoundToForgive = 16;

  uint32_t in_a_row_ = 0;
  uint32_t needed_ = kFewest;
  uint32_t found_ = 0;
};

}  // namespace engine
