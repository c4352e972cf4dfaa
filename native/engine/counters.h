// Counters that other threads read: one writer, relaxed atomics.
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
  kDatagramsFromApp,
  kDatagramsToApp,
  kDroppedDatagrams,
  kRefusedDatagrams,
  kUnnamedFlows,
  kConnections,
  kTimers,
  kPredialledFlows,
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
  /// Adds all of them up into `sums`.
  void add_to(uint64_t* sums) const {
    for (size_t i = 0; i < kCounterSlots; i++) sums[i] += slots_[i].load(std::memory_order_relaxed);
  }

 private:
  std::array<std::atomic<uint64_t>, kCounterSlots> slots_{};
};

}  // namespace engine
