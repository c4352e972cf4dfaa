// Which queue has which flow, by the hash of its key.
//
// Every connection is entered here and taken out again, by whichever engine has it, so nothing is
// allocated for one, and a look touches two cache lines: open addressing with linear probing, and
// deletion that leaves no marks (Knuth, The Art of Computer Programming, volume 3, section 6.4,
// algorithms L and R). The hash is keyed, so its upper 60 bits stand for the key.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

namespace engine {

class Owners {
 public:
  static constexpr uint32_t kMostQueues = 16;

  /// The flow is `queue`'s from now on, whosever it was.
  void set(uint64_t hash, uint32_t queue) {
    Shard& shard = shard_of(hash);
    std::lock_guard lock(shard.mutex);
    uint64_t& slot = shard.slots[shard.position_of(hash)];
    bool is_new = slot == 0;
    slot = name_of(hash) | queue;
    if (is_new && ++shard.count * 4 > shard.size * 3) shard.resize(shard.size * 2);
  }

  /// The flow is nobody's, if it is `queue`'s still.
  void erase(uint64_t hash, uint32_t queue) {
    Shard& shard = shard_of(hash);
    std::lock_guard lock(shard.mutex);
    size_t position = shard.position_of(hash);
    if (shard.slots[position] != (name_of(hash) | queue)) return;
    shard.close_gap(position);
    if (--shard.count * 8 < shard.size && shard.size > kFewestSlots) shard.resize(shard.size / 2);
  }

  std::optional<uint32_t> find(uint64_t hash) {
    Shard& shard = shard_of(hash);
    std::lock_guard lock(shard.mutex);
    uint64_t slot = shard.slots[shard.position_of(hash)];
    if (slot == 0) return std::nullopt;
    return static_cast<uint32_t>(slot & kQueueBits);
  }

 private:
  // A slot is a name and, in the four lowest bits, a queue; 0 when it is free.
  static constexpr uint64_t kQueueBits = kMostQueues - 1;
  static constexpr size_t kShards = 64;
  static constexpr size_t kFewestSlots = 16;

  static uint64_t name_of(uint64_t hash) {
    uint64_t name = hash & ~kQueueBits;
    return name ? name : kMostQueues;
  }

  struct alignas(64) Shard {
    std::mutex mutex;
    uint32_t size = kFewestSlots;  // a power of two
    uint32_t count = 0;
    std::unique_ptr<uint64_t[]> slots = std::make_unique<uint64_t[]>(kFewestSlots);

    size_t home_of(uint64_t hash) const {
      return (name_of(hash) / (kMostQueues * kShards)) & (size - 1);
    }
    /// Where it is, or the free slot where it would be.
    size_t position_of(uint64_t hash) const {
      size_t position = home_of(hash);
      while (slots[position] != 0 && (slots[position] ^ name_of(hash)) > kQueueBits)
        position = (position + 1) & (size - 1);
      return position;
    }
    void close_gap(size_t gap) {
      const size_t mask = size - 1;
      for (size_t i = (gap + 1) & mask; slots[i] != 0; i = (i + 1) & mask) {
        bool is_reached_over_gap = ((i - home_of(slots[i])) & mask) >= ((i - gap) & mask);
        if (!is_reached_over_gap) continue;
        slots[gap] = slots[i];
        gap = i;
      }
      slots[gap] = 0;
    }
    void resize(uint32_t slots_wanted) {
      auto old = std::exchange(slots, std::make_unique<uint64_t[]>(slots_wanted));
      uint32_t old_size = std::exchange(size, slots_wanted);
      for (uint32_t i = 0; i < old_size; i++)
        if (old[i] != 0) slots[position_of(old[i])] = old[i];
    }
  };

  Shard& shard_of(uint64_t hash) { return shards_[name_of(hash) / kMostQueues % kShards]; }

  std::array<Shard, kShards> shards_;
};

}  // namespace engine
