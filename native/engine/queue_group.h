// What the engines of one device share: which of them has which flow, a mailbox each, and whether
// all of them take new connections.
//
// The kernel sends a flow's packets to the queue that its hash names, or for three seconds to the
// one that last wrote one of its packets (drivers/net/tun.c, tun_flow_update), so strays are rare;
// they are copied to their owner, and its answer moves the flow back. Every engine lives in its own
// copy of this code (see engine_copies.h), so nothing here is static: the group is one object that
// all copies use through their own inlined code.
#pragma once
#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "base/unique_fd.h"
#include "engine/concentration.h"
#include "engine/owners.h"
#include "engine/placement.h"
#include "stack/neighbours.h"
#include "tun/tun_device.h"

namespace engine {

class QueueGroup {
 public:
  explicit QueueGroup(size_t queues, unsigned processors = std::thread::hardware_concurrency())
      : secret_(base::random_key()),
        mailboxes_(queues),
        shares_(queues),
        most_polling_(processors / 2),
        few_(std::clamp<uint32_t>(processors / 2, 1, static_cast<uint32_t>(queues))) {
    for (auto& mailbox : mailboxes_) {
      mailbox = std::make_unique<Mailbox>();
      mailbox->event.reset(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
    }
  }

  const base::SipKey& secret() const { return secret_; }

  /// `hash` is hash_of(secret(), key of the flow), here and below.
  void claim(uint64_t hash, uint32_t queue) { owners_.set(hash, queue); }
  void release(uint64_t hash, uint32_t queue) { owners_.erase(hash, queue); }

  /// @return false when no other queue has the flow
  bool pass_on(uint64_t hash, std::span<const uint8_t> packet, uint32_t from) {
    std::optional<uint32_t> to = owners_.find(hash);
    if (!to || *to == from) return false;
    Mailbox& mailbox = *mailboxes_[*to];
    {
      std::lock_guard lock(mailbox.mutex);
      if (mailbox.packets.size() >= kMaxWaiting) return true;  // as if lost on the way
      mailbox.packets.emplace_back(packet.begin(), packet.end());
    }
    ring(mailbox);
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

  // ---- few engines, or all (engine/concentration.h) ----

  /// What a queue's packets come from, for whoever else may read it. Before the engines start.
  /// @return 0, or errno
  int share_device(uint32_t queue, int fd) {
    base::UniqueFd own(fcntl(fd, F_DUPFD_CLOEXEC, 3));
    if (!own) return errno;
    mailboxes_[queue]->device = std::make_unique<tun::TunDevice>(std::move(own));
    return 0;
  }
  /// null when it has none
  tun::PacketIo* device(uint32_t queue) const { return mailboxes_[queue]->device.get(); }

  /// Who reads a queue while few engines read all: half as many as there are processors, so that
  /// client and proxy have the others.
  uint32_t reader_of(uint32_t queue) const { return queue % few_; }
  size_t queues() const { return mailboxes_.size(); }

  void publish(uint32_t queue, const Concentration::Load& load) {
    Mailbox& mailbox = *mailboxes_[queue];
    mailbox.ended.store(load.ended, std::memory_order_relaxed);
    mailbox.bytes.store(load.bytes, std::memory_order_relaxed);
    mailbox.open.store(load.open, std::memory_order_relaxed);
  }

  bool is_concentrated() const { return is_concentrated_.load(std::memory_order_relaxed); }

  /// The first queue's engine judges for all, and wakes them when it changes its mind.
  void judge(uint64_t now_ms) {
    if (few_ >= mailboxes_.size() || !concentration_.is_due(now_ms)) return;
    Concentration::Load sum;
    for (const auto& mailbox : mailboxes_) {
      sum.ended += mailbox->ended.load(std::memory_order_relaxed);
      sum.bytes += mailbox->bytes.load(std::memory_order_relaxed);
      sum.open += mailbox->open.load(std::memory_order_relaxed);
    }
    bool is_on = concentration_.update(now_ms, sum);
    if (is_on == is_concentrated()) return;
    is_concentrated_.store(is_on, std::memory_order_relaxed);
    for (const auto& mailbox : mailboxes_) ring(*mailbox);
  }

  /// Takes down how an engine fares. @return the processor to which it shall go, or -1
  int place(uint32_t queue, const ThreadShare& share, uint64_t now_ms) {
    std::lock_guard lock(shares_mutex_);
    shares_[queue] = {share, now_ms};
    for (Told& other : shares_) {
      bool is_recent = other.at_ms > 0 && now_ms - other.at_ms <= kRecentMs;
      if (!is_recent || !should_join(share, other.share)) continue;
      other.at_ms = 0;  // nobody else goes there before it has told how it fares then
      return other.share.processor;
    }
    return -1;
  }

  int event_fd(uint32_t queue) const { return mailboxes_[queue]->event.get(); }

  std::vector<std::vector<uint8_t>> take(uint32_t queue) {
    Mailbox& mailbox = *mailboxes_[queue];
    uint64_t count;
    if (read(mailbox.event.get(), &count, sizeof count) < 0) count = 0;
    std::lock_guard lock(mailbox.mutex);
    return std::exchange(mailbox.packets, {});
  }

 private:
  static constexpr uint64_t kRecentMs = 250;
  struct Told {
    ThreadShare share;
    uint64_t at_ms = 0;
  };
  static constexpr size_t kMaxWaiting = 256;  // packets, at most 16 MiB
  struct Mailbox {
    std::mutex mutex;
    base::UniqueFd event;
    std::vector<std::vector<uint8_t>> packets;
    std::unique_ptr<tun::PacketIo> device;
    std::atomic<int64_t> ended{0};
    std::atomic<uint64_t> bytes{0}, open{0};
  };

  static void ring(Mailbox& mailbox) {
    uint64_t one = 1;
    if (write(mailbox.event.get(), &one, sizeof one) < 0) return;  // full: it will wake
  }

  base::SipKey secret_;
  Owners owners_;
  std::vector<std::unique_ptr<Mailbox>> mailboxes_;
  std::mutex shares_mutex_;
  std::vector<Told> shares_;
  const unsigned most_polling_;
  std::atomic<unsigned> polling_{0};
  const uint32_t few_;
  Concentration concentration_;                           // the first engine's
  alignas(64) std::atomic<bool> is_concentrated_{false};  // read often: on a line of its own
};

/// One engine's view of its group.
class GroupMember final : public stack::Neighbours {
 public:
  GroupMember(std::shared_ptr<QueueGroup> group, uint32_t queue)
      : group_(std::move(group)), queue_(queue) {}
  const base::SipKey& secret() const override { return group_->secret(); }
  void claim(uint64_t hash) override { group_->claim(hash, queue_); }
  void release(uint64_t hash) override { group_->release(hash, queue_); }
  bool pass_on(uint64_t hash, std::span<const uint8_t> packet) override {
    return group_->pass_on(hash, packet, queue_);
  }
  bool begin_polling() { return group_->begin_polling(); }
  void end_polling() { group_->end_polling(); }
  int event_fd() const { return group_->event_fd(queue_); }
  std::vector<std::vector<uint8_t>> take() { return group_->take(queue_); }

  int share_device(int fd) { return group_->share_device(queue_, fd); }
  bool is_reader() const { return group_->reader_of(queue_) == queue_; }
  /// The queues that it reads for others while few engines read all.
  std::vector<tun::PacketIo*> others_devices() const {
    std::vector<tun::PacketIo*> out;
    for (uint32_t i = 0; i < group_->queues(); i++)
      if (i != queue_ && group_->reader_of(i) == queue_ && group_->device(i))
        out.push_back(group_->device(i));
    return out;
  }
  void publish(const Concentration::Load& load) { group_->publish(queue_, load); }
  /// @return the processor to go to, or -1
  int place(const ThreadShare& share, uint64_t now_ms) {
    return group_->place(queue_, share, now_ms);
  }
  /// @return whether few engines shall read all queues
  bool judge(uint64_t now_ms) {
    if (queue_ == 0) group_->judge(now_ms);
    return group_->is_concentrated();
  }

 private:
  std::shared_ptr<QueueGroup> group_;
  uint32_t queue_;
};

}  // namespace engine
