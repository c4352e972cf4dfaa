// The one thread: epoll over the TUN queue and all upstream sockets, timers, commands.
#pragma once
#include <sys/epoll.h>

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "base/result.h"
#include "base/unique_fd.h"
#include "engine/counters.h"
#include "engine/datagram_queue.h"
#include "engine/events.h"
#include "engine/queue_group.h"
#include "engine/short_waits.h"
#include "engine/thread_times.h"
#include "relay/relay.h"
#include "tun/lossy_io.h"

namespace engine {

struct Options {
  tcp::DriverOptions driver;
  relay::Options relay;
  tun::Faults faults;  // test only
  bool flow_events = false;
};

/// What may be called from outside the engine's copy of the code: virtual, so that it runs there.
class EngineFace {
 public:
  virtual ~EngineFace() = default;
  /// Runs on a thread of its own until stop().
  virtual void start() = 0;
  /// Resets every flow, joins the thread. Idempotent; not on the engine's thread.
  virtual void stop() = 0;
  virtual void set_upstreams(std::vector<relay::UpstreamAddress> upstreams) = 0;
  /// Event records (kind opened) of at most `limit` flows, made on the engine's thread.
  virtual void list_flows(size_t limit, std::function<void(std::vector<uint8_t>)> done) = 0;
  virtual std::vector<uint8_t> take_events() = 0;
  /// Records of stack/datagrams.h: DNS queries.
  virtual std::vector<uint8_t> take_datagrams() = 0;
  /// Writes such records into the device. Dropped where too many wait already.
  virtual void send_datagrams(std::vector<uint8_t> records) = 0;
  virtual const Counters& counters() const = 0;
};

class Engine final : public EngineFace, private relay::EventSink {
 public:
  /// `wake` is called on the engine's thread when take_events() has something, `wake_datagrams`
  /// when take_datagrams() has. `group` is null for the only queue of a device.
  static base::Result<std::unique_ptr<Engine>> create(std::unique_ptr<tun::PacketIo> device,
                                                      std::unique_ptr<relay::Dialer> dialer,
                                                      Options options, std::function<void()> wake,
                                                      std::shared_ptr<QueueGroup> group = nullptr,
                                                      uint32_t queue = 0,
                                                      std::function<void()> wake_datagrams = {});
  ~Engine() override;

  void start() override;
  void stop() override;

  /// One round: waits at most `timeout_ms` (-1: until something happens) and does what is due.
  /// For tests, instead of start(). @return false once the device is gone
  bool step(int timeout_ms, uint64_t now_ms);
  int timeout_ms() const { return relay_->timeout_ms(); }

  // Any thread, also before start():
  void set_upstreams(std::vector<relay::UpstreamAddress> upstreams) override;
  void list_flows(size_t limit, std::function<void(std::vector<uint8_t>)> done) override;
  std::vector<uint8_t> take_events() override { return events_.take(); }
  std::vector<uint8_t> take_datagrams() override { return datagrams_.take(); }
  void send_datagrams(std::vector<uint8_t> records) override;
  const Counters& counters() const override { return counters_; }

  relay::Relay& relay_for_tests() { return *relay_; }

 private:
  Engine(std::unique_ptr<tun::PacketIo> device, std::unique_ptr<relay::Dialer> dialer,
         Options options, std::function<void()> wake, base::UniqueFd epoll, base::UniqueFd wakeup,
         std::unique_ptr<GroupMember> member, std::function<void()> wake_datagrams);
  void run();
  /// epoll_wait(2), polling before it where that is worth it.
  int wait(epoll_event* ready, int timeout_ms);
  bool begin_polling();
  void end_polling();
  /// Reads other queues as well, or leaves its own to others, as the group wants it.
  void follow_group();
  /// Leaves a crowded processor for one that has time to spare (engine/placement.h).
  void find_place();
  bool watch(int fd, void* who, bool is_watched);
  bool is_other_queue(const void* who) const;
  void post(std::function<void()> command);
  void run_commands();
  void hand_over_datagrams();
  void publish_counters();
  void on_flow_event(relay::EventKind kind, const relay::Flow& flow, int status, int error,
                     std::string_view text) override;
  void on_notice(std::string_view text, uint32_t similar) override;

  std::unique_ptr<tun::PacketIo> device_;
  std::unique_ptr<relay::Dialer> dialer_;
  std::optional<tun::LossyIo> lossy_;
  Options options_;
  base::UniqueFd epoll_;
  base::UniqueFd wakeup_;
  std::unique_ptr<GroupMember> member_;
  bool is_concentrated_ = false;        // as the group said last
  std::vector<tun::PacketIo*> others_;  // the queues it reads then
  EventQueue events_;
  DatagramQueue datagrams_;
  uint64_t dropped_queries_ = 0;
  std::atomic<uint64_t> dropped_replies_{0};
  std::atomic<size_t> reply_bytes_waiting_{0};
  Counters counters_;
  uint64_t now_ms_ = 0;
  std::unique_ptr<relay::Relay> relay_;
  std::thread thread_;
  std::atomic<bool> is_stopping_{false};
  bool device_may_have_more_ = false;
  bool has_carried_much_ = false;  // in the last round
  ShortWaits short_waits_;
  ThreadTimes times_;
  std::mutex commands_mutex_;
  std::vector<std::function<void()>> commands_;
};

/// CLOCK_MONOTONIC in ms.
uint64_t monotonic_ms();

}  // namespace engine
