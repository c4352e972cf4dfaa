// Counters that other threads read without a call: one writer, relaxed atomics in shared memory.
#pragma once
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace engine {

/// Keep equal to COUNTER in src/native.ts.
enum class Counter : size_t {
  kActiveFlows,
  kOpenedFlows,
  kRefusedFlows,
  kFailedFlows,
  kBytesToUpstream,
  kBytesToApp,
  kPacketsFromApp,
  kPacketsToApp,
  kMalformedPackets,
  kIgnoredPackets,
  kResetFlows,
  kPendingFlows,
  kOverLimitFlows,
  kBufferedBytes,
  kGivenUpFlows,
  kTunWriteErrors,
};
constexpr size_t kCounterSlots = 32;

class Counters {
 public:
  void set(Counter which, uint64_t value) {
    slots_[static_cast<size_t>(which)].store(value, std::memory_order_relaxed);
  }
  uint64_t get(Counter which) const {
    return slots_[static_cast<size_t>(which)].load(std::memory_order_relaxed);
  }
  void* data() { return slots_.data(); }

 private:
  std::array<std::atomic<uint64_t>, kCounterSlots> slots_{};
  static_assert(sizeof(std::atomic<uint64_t>) == sizeof(uint64_t));
};

}  // namespace engine
