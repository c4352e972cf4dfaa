// Whether an engine waits for a processor while another one's has time to spare.
//
// Threads that run for microseconds and sleep again are too recently used for the kernel's load
// balancer to move them, and their wakers leave them where they are. So an engine, the client and
// the proxy can share one processor for seconds, while the other engine is alone on the next, and
// waits for connections that the first is slow to end. Who notices that goes to the other engine's
// processor: then two engines share one, which they can, and client and proxy have the other.
#pragma once
#include <cstdint>

namespace engine {

/// What a thread did in a window of time, in thousandths of it; it slept for the rest.
struct ThreadShare {
  uint32_t ran = 0;
  uint32_t waited = 0;  // ready to run, and others did
  int processor = -1;
};

/// @return whether the thread shall go to the other one's processor
inline bool should_join(const ThreadShare& own, const ThreadShare& other) {
  constexpr uint32_t kMuchWaiting = 450, kLittleWaiting = 250, kLittleRunning = 750;
  return own.waited >= kMuchWaiting && other.waited < kLittleWaiting &&
         other.ran < kLittleRunning && other.processor >= 0 && own.processor != other.processor;
}

}  // namespace engine
