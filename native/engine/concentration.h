// Whether a few engines shall take all connections: a judgement of what the last ones were like.
//
// Short connections, one after the other or some dozens at once, leave no engine much to do. Spread
// over all queues they wake each of them in turn: threads that polled in vain, caches that are
// cold, a client and a proxy that find no processor free. Streams want the opposite, and stay where
// they began: so what is long, large or many ends it at once.
#pragma once
#include <algorithm>
#include <cstdint>

namespace engine {

class Concentration {
 public:
  /// Of all engines of a device.
  struct Load {
    int64_t ended = 0;   // connections, since the beginning
    uint64_t bytes = 0;  // carried both ways, since the beginning
    uint64_t open = 0;   // connections now
  };

  /// Whether it is time for update().
  bool is_due(uint64_t now_ms) const { return now_ms - since_ms_ >= kWindowMs; }

  /// @return whether few engines shall take what comes
  bool update(uint64_t now_ms, const Load& load) {
    uint64_t elapsed_ms = now_ms - since_ms_;
    // One that was accepted early counts as ended until it relays: for once it may be less.
    auto ended = static_cast<uint64_t>(std::max<int64_t>(load.ended - last_.ended, 0));
    uint64_t bytes = load.bytes - last_.bytes;
    since_ms_ = now_ms;
    last_ = load;
    return ended * 1000 >= kFewestPerSecond * elapsed_ms && bytes <= kMostBytesEach * ended &&
           load.open <= kMostOpen;
  }

 private:
  static constexpr uint64_t kWindowMs = 100;
  static constexpr uint64_t kFewestPerSecond = 160;
  static constexpr uint64_t kMostBytesEach = 16 << 10;
  static constexpr uint64_t kMostOpen = 32;

  uint64_t since_ms_ = 0;
  Load last_;
};

}  // namespace engine
