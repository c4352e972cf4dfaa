// How large the receive windows are.
#include "tcp/receive_windows.h"

#include <algorithm>

namespace tcp {
namespace {

constexpr uint32_t kSmallest = 4096;  // bytes

}  // namespace

void ReceiveWindows::open(Endpoint& e) {
  uint64_t left = limits_.sum > promised_ ? limits_.sum - promised_ : 0;
  uint64_t first = std::min<uint64_t>({limits_.first, kLargestUnscaled, left / 16});
  e.window_target = std::max(kSmallest, static_cast<uint32_t>(first));
  promised_ += e.window_target;
}

void ReceiveWindows::grow(Endpoint& e, uint32_t moved, bool is_scaled) {
  uint32_t ceiling = is_scaled ? limits_.largest : kLargestUnscaled;
  e.window_moved += moved;
  if (promised_ > limits_.sum) {
    uint32_t smaller = std::max(e.window_target / 2, kSmallest);
    promised_ -= e.window_target - smaller;
    e.window_target = smaller;
    e.window_moved = 0;
  } else if (e.window_moved >= e.window_target && e.window_target < ceiling) {
    uint64_t left = limits_.sum - promised_;
    uint64_t step = std::min<uint64_t>({e.window_target, ceiling - e.window_target, left / 8});
    promised_ += step;
    e.window_target += static_cast<uint32_t>(step);
    e.window_moved = 0;
  }
}

void ReceiveWindows::close(Endpoint& e) {
  promised_ -= e.window_target;
  e.window_target = 0;
}

}  // namespace tcp
