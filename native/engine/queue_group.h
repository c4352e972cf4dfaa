// What the engines of one device share: which of them has which flow, and a mailbox each.
//
// The kernel sends a flow's packets to the queue that last wrote one of its packets, so strays are
// rare (drivers/net/tun.c, tun_flow_update); they are copied to their owner, and its answer moves
// the flow back. Every engine lives in its own copy of this code (see engine_copies.h), so nothing
// here is static: the group is one object that all copies use through their own inlined code.
#pragma once
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/unique_fd.h"
#include "stack/neighbours.h"

namespace engine {

class QueueGroup {
 public:
  explicit QueueGroup(size_t queues, unsigned processors = std::thread::hardware_concurrency())
      : secret_(base::random_key()), mailboxes_(queues), most_polling_(processors / 2) {
    for (auto& mailbox : mailboxes_) {
      mailbox = std::make_unique<Mailbox>();
      mailbox->event.reset(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
    }
  }

  const base::SipKey& secret() const { return secret_; }

  void claim(const wire::FlowKey& key, uint32_t hash, uint32_t queue) {
    Shard& shard = shard_of(hash);
    std::lock_guard lock(shard.mutex);
    shard.owners[{key, hash}] = queue;
  }

  void release(const wire::FlowKey& key, uint32_t hash, uint32_t queue) {
    Shard& shard = shard_of(hash);
    std::lock_guard lock(shard.mutex);
    auto found = shard.owners.find({key, hash});
    if (found != shard.owners.end() && found->second == queue) shard.owners.erase(found);
  }

  /// @return false when no other queue has the flow
  bool pass_on(const wire::FlowKey& key, uint32_t hash, std::span<const uint8_t> packet,
               uint32_t from) {
    uint32_t to;
    {
      Shard& shard = shard_of(hash);
      std::lock_guard lock(shard.mutex);
      auto found = shard.owners.find({key, hash});
      if (found == shard.owners.end() || found->second == from) return false;
      to = found->second;
    }
    Mailbox& mailbox = *mailboxes_[to];
    {
      std::lock_guard lock(mailbox.mutex);
      if (mailbox.packets.size() >= kMaxWaiting) return true;  // as if lost on the way
      mailbox.packets.emplace_back(packet.begin(), packet.end());
    }
    uint64_t one = 1;
    if (write(mailbox.event.get(), &one, sizeof one) < 0) return true;  // full: it will wake
    return true;
  }

  /// No more engines poll than leave a processor each to whom they wait for.
  /// @return false when that many poll; otherwise end_polling() is due
  bool begin_polling() {
    if (polling_.fetch_add(1, std::memory_order_relaxed) < most_polling_) return true;
    end_polling();
    return false;
  }
  void end_polling() { polling_.fetch_sub(1, std::memory_order_relaxed); }

  int event_fd(uint32_t queue) const { return mailboxes_[queue]->event.get(); }

  std::vector<std::vector<uint8_t>> take(uint32_t queue) {
    Mailbox& mailbox = *mailboxes_[queue];
    uint64_t count;
    if (read(mailbox.event.get(), &count, sizeof count) < 0) count = 0;
    std::lock_guard lock(mailbox.mutex);
    return std::exchange(mailbox.packets, {});
  }

 private:
  static constexpr size_t kShards = 64;
  static constexpr size_t kMaxWaiting = 256;  // packets, at most 16 MiB
  struct HashedKey {
    wire::FlowKey key;
    uint32_t hash;
    bool operator==(const HashedKey&) const = default;
  };
  struct Hash {
    size_t operator()(const HashedKey& key) const noexcept { return key.hash / kShards; }
  };
  struct Shard {
    std::mutex mutex;
    std::unordered_map<HashedKey, uint32_t, Hash> owners;
  };
  struct Mailbox {
    std::mutex mutex;
    base::UniqueFd event;
    std::vector<std::vector<uint8_t>> packets;
  };

  Shard& shard_of(uint32_t hash) { return shards_[hash % kShards]; }

  base::SipKey secret_;
  std::array<Shard, kShards> shards_;
  std::vector<std::unique_ptr<Mailbox>> mailboxes_;
  const unsigned most_polling_;
  std::atomic<unsigned> polling_{0};
};

/// One engine's view of its group.
class GroupMember final : public stack::Neighbours {
 public:
  GroupMember(std::shared_ptr<QueueGroup> group, uint32_t queue)
      : group_(std::move(group)), queue_(queue) {}
  const base::SipKey& secret() const override { return group_->secret(); }
  void claim(const wire::FlowKey& key, uint32_t hash) override { group_->claim(key, hash, queue_); }
  void release(const wire::FlowKey& key, uint32_t hash) override {
    group_->release(key, hash, queue_);
  }
  bool pass_on(const wire::FlowKey& key, uint32_t hash, std::span<const uint8_t> packet) override {
    return group_->pass_on(key, hash, packet, queue_);
  }
  bool begin_polling() { return group_->begin_polling(); }
  void end_polling() { group_->end_polling(); }
  int event_fd() const { return group_->event_fd(queue_); }
  std::vector<std::vector<uint8_t>> take() { return group_->take(queue_); }

 private:
  std::shared_ptr<QueueGroup> group_;
  uint32_t queue_;
};

}  // namespace engine
