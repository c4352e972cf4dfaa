// How large the receive windows are: what an endpoint may still send us is memory that we owe it,
// so the sum of all windows is the bound on what received data can hold (decision 0006).
#pragma once
#include <cstdint>

#include "tcp/endpoint.h"

namespace tcp {

class ReceiveWindows {
 public:
  static constexpr uint32_t kLargestUnscaled = 65535;  // without RFC 7323's option

  struct Limits {
    uint32_t first = 64 * 1024;      // bytes, of a new connection; at most kLargestUnscaled
    uint32_t largest = 1024 * 1024;  // it may grow to, as long as `sum` permits
    uint64_t sum = 128ull << 20;     // bytes
  };

  explicit ReceiveWindows(const Limits& limits) : limits_(limits) {}

  /// Gives a new connection its first window. Near the limit it starts with less.
  void open(Endpoint& endpoint);
  /// The window grows to what the connection really moves, while the sum of all windows permits,
  /// and shrinks again under pressure by not being given back. `is_scaled`: RFC 7323's option.
  void grow(Endpoint& endpoint, uint32_t moved, bool is_scaled);
  void close(Endpoint& endpoint);

  /// The sum of all windows.
  uint64_t promised_bytes() const { return promised_; }

 private:
  Limits limits_;
  uint64_t promised_ = 0;
};

}  // namespace tcp
