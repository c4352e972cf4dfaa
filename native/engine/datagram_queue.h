// Queries on their way to whoever answers them: collected on the engine's thread, a batch per
// round, and handed over on another.
#pragma once
#include <functional>
#include <mutex>
#include <utility>
#include <vector>

#include "stack/datagrams.h"

namespace engine {

class DatagramQueue {
 public:
  /// `wake` is called, on the engine's thread, when the first batch after take() is there; without
  /// it nothing is kept.
  explicit DatagramQueue(std::function<void()> wake) : wake_(std::move(wake)) {}

  /// @return false when it was dropped: nobody takes them, or not fast enough
  bool push(stack::DatagramBatch batch) {
    if (!wake_) return false;
    bool must_wake;
    {
      std::lock_guard lock(mutex_);
      if (count_ + batch.count > kMostDatagrams ||
          records_.size() + batch.records.size() > kMostBytes)
        return false;
      count_ += batch.count;
      if (records_.empty()) {
        records_ = std::move(batch.records);
      } else {
        records_.insert(records_.end(), batch.records.begin(), batch.records.end());
      }
      must_wake = !std::exchange(is_awake_, true);
    }
    if (must_wake) wake_();
    return true;
  }

  /// Records of stack/datagrams.h, everything since the last call. Any thread.
  std::vector<uint8_t> take() {
    std::lock_guard lock(mutex_);
    is_awake_ = false;
    count_ = 0;
    return std::exchange(records_, {});
  }

 private:
  static constexpr uint32_t kMostDatagrams = 8192;
  static constexpr size_t kMostBytes = 2 << 20;
  std::function<void()> wake_;
  std::mutex mutex_;
  std::vector<uint8_t> records_;
  uint32_t count_ = 0;
  bool is_awake_ = false;
};

}  // namespace engine
