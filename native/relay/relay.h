// Flows from SYN to close: dial, CONNECT, bytes both ways, half-close, reset, limits.
//
// Life of a flow
// --------------
//   sniffing   accepted, but not dialled before its first bytes have told a name (naming.cc)
//   held       SYN waits; upstream kConnecting, then kAsked     -> accepted, refused, or timed out
//   relaying   both directions run on their own; backpressure is the receive window towards the app
//              and not reading the upstream's socket the other way
//   half-closed  a FIN is passed on once all data before it is; the other direction goes on
//   over       both FINs passed, or a reset: a RST from either side becomes a RST to the other
//
// With early_accept the SYN is accepted before the dial, and a refusal is a RST afterwards.
// A failing flow is reset and counted; it never ends the tunnel.
#pragma once
#include <array>
#include <atomic>
#include <deque>
#include <functional>
#include <string_view>
#include <vector>

#include "base/write_batch.h"
#include "relay/dialer.h"
#include "relay/flow.h"
#include "relay/own_addresses.h"
#include "relay/predial.h"
#include "relay/socket_watch.h"
#include "tcp/lwip_memory.h"

namespace relay {

struct Options {
  RequestTemplate request;
  bool early_accept = false;
  uint32_t connect_timeout_ms = 30000;
  uint32_t idle_timeout_ms = 0;        // 0 = never
  uint32_t keepalive_ms = 60000;       // 0 = none
  uint64_t send_limit = 128ull << 20;  // bytes towards all apps
  uint32_t max_flows = 100000;
  uint32_t max_pending = 8192;
  uint32_t predial = 0;  // idle connections to keep open
  /// What virtual addresses stand for; null: every address is an address.
  std::shared_ptr<stack::NameTable> names;
  /// Port 53 of every address that stands for no name is DNS, streams of which go to `dns_socket`.
  bool catches_dns = false;
  UpstreamAddress dns_socket;
  /// Accept what has no name early and learn the name from its first bytes.
  bool sniffs = false;
  /// Whether the app of a flow is on this host; null: the kernel is asked.
  std::function<bool(const wire::FlowKey&)> is_app_here;
};

enum class EventKind : uint8_t {
  kOpened = 1,
  kClosed = 2,
  kRefused = 3,  // the proxy answered, with another status than 2xx
  kFailed = 4,   // no usable answer: errno says why
  kFatal = 5,
  kNotice = 6,
};

class EventSink {
 public:
  virtual ~EventSink() = default;
  virtual void on_flow_event(EventKind kind, const Flow& flow, int status, int error,
                             std::string_view text) = 0;
  /// @param similar how many like it nobody heard of
  virtual void on_notice(std::string_view text, uint32_t similar) = 0;
};

struct RelayStats {
  uint64_t opened = 0;
  uint64_t refused = 0;
  uint64_t failed = 0;
  uint64_t reset = 0;
  uint64_t over_limit = 0;
  uint64_t unnamed = 0;     // to virtual addresses that stand for nothing
  uint64_t predialled = 0;  // dials that found a connection open
  uint64_t gathered = 0;    // streams that became long and fast enough
  uint64_t pending = 0;
  uint64_t active = 0;
  uint64_t to_upstream_bytes = 0;
  uint64_t to_app_bytes = 0;
  uint64_t memory_returns = 0;  // to the kernel, of what malloc held
};

class Relay final : public stack::Owner {
 public:
  Relay(tun::PacketIo& io, Dialer& dialer, EventSink& events, int epoll_fd,
        const tcp::DriverOptions& driver_options, Options options,
        stack::Neighbours* neighbours = nullptr);
  ~Relay() override;

  void set_upstreams(std::vector<UpstreamAddress> upstreams);

  stack::Stack& stack() { return stack_; }
  const RelayStats& stats() const { return stats_; }
  uint64_t queued_bytes() const { return queued_bytes_; }

  /// epoll says something about a socket of this relay.
  void on_socket(int fd, uint32_t epoll_events);

  void set_now(uint64_t now_ms);
  /// Does all work that came up; frees what is over. Call after every batch of events.
  void run();
  /// Timers of every layer. Call right after set_now().
  void run_timers();
  /// ms until run_timers() or run() is due, -1 when nothing waits.
  int timeout_ms() const;
  /// What waits for a moment, but for the looks at flows that live.
  size_t timer_count() const;

  /// Resets every flow, both sides.
  void reset_all();

  // stack::Owner
  stack::Connection* new_connection(const wire::FlowKey& key) override;
  void on_held(stack::Connection& connection) override;
  void on_withdrawn(stack::Connection& connection) override;
  void on_input(stack::Connection& connection) override;
  void on_time_wait_over(stack::Connection& connection) override;
  void on_work(tcp::Endpoint& endpoint) override;

 private:
  // relay.cc: life cycle
  void on_flow_socket(Flow& flow, uint32_t epoll_events);
  void succeed(Flow& flow, std::span<const uint8_t> early_data);
  void bound_receive_queue(Flow& flow);
  bool takes_large_packets(const Flow& flow);
  void refuse(Flow& flow, int status, std::string_view head);
  void fail(Flow& flow, int error, std::string_view text);
  void answer_failure(Flow& flow, int error);
  void answer_health_check(Flow& flow);
  void accept(Flow& flow);
  void abort_app(Flow& flow);
  void settle(Flow& flow);
  void close_socket(Flow& flow);
  bool is_recyclable(const Flow& flow) const;
  void kill(Flow& flow);
  void bury(Flow& flow);
  void work(Flow& flow);
  void note_pending_over();
  void note_inactive(Flow& flow);
  void notice_limit(const char* what);

  // dialling.cc: the way to the proxy
  void dial(Flow& flow);
  void dial_dns(Flow& flow);
  bool use_predialled(Flow& flow);
  void refill_predialled();
  void reply_is_missing(Flow& flow, int error, std::string_view text);
  void dial_next_address(Flow& flow);
  int start_dial(Flow& flow, const UpstreamAddress& to);
  void dial_failed(Flow& flow, int error);
  void give_up_address(Flow& flow);
  int send_request(Flow& flow);
  int request_sent(Flow& flow, ssize_t written, size_t bytes);
  void read_reply(Flow& flow);

  // naming.cc: what it goes by
  bool find_destination(Flow& flow);
  void refuse_unnamed(Flow& flow);
  void start_sniffing(Flow& flow);
  void sniff(Flow& flow);
  void stop_sniffing(Flow& flow);
  void run_sniff_limits();

  // pump.cc: bytes
  void pump_to_upstream(Flow& flow);
  void send_received(Flow& flow);
  void note_sent(Flow& flow, uint32_t bytes);
  bool is_only_large_sender(const Flow& flow);
  void finish_to_upstream(Flow& flow);
  void pump_to_app(Flow& flow);
  bool queue_to_app(Flow& flow, SendBuffer*& buffer, uint32_t length);
  uint32_t read_allowance(const Flow& flow) const;
  void settle_acks(Flow& flow);
  void drop_send_queue(Flow& flow);
  void finish_to_app(Flow& flow);
  void hold_back(Flow& flow, bool is_held_back);
  void hold_ack(Flow& flow);
  void send_held_acks();

  // put_off.cc: sends that leave together
  bool put_off_send(Flow& flow, std::span<const iovec> parts);
  void take_back_send(Flow& flow);
  void make_sends();
  void on_sent(Flow& flow, ssize_t written, size_t bytes);

  // gather.cc: long streams
  void note_read(Flow& flow, uint32_t bytes);
  void stop_gathering(Flow& flow);
  void tell_of_every_byte(Flow& flow);
  void look_after(Flow& flow);
  void check_gathered();

  void touch(Flow& flow) { flow.last_activity_s = static_cast<uint32_t>(now_ms_ / 1000); }

  // timing_wheel.cc: slow time-outs
  void wheel_insert(Flow& flow, uint64_t due_ms);
  void wheel_remove(Flow& flow);
  void run_wheel();
  struct Work {
    uint64_t flows = 0;
    uint64_t bytes = 0;
    bool operator==(const Work&) const = default;
  };
  uint64_t moved_bytes() const { return stats_.to_upstream_bytes + stats_.to_app_bytes; }
  bool has_idle_memory() const;
  bool owes_memory() const;
  void give_memory_back();
  void check_flow(Flow& flow);
  uint64_t next_check_ms(const Flow& flow) const;

  Dialer& dialer_;
  EventSink& events_;
  SocketWatch sockets_;
  Options options_;
  stack::Stack stack_;
  tcp::Driver& driver_;
  RelayStats stats_;
  Predialer predialer_;
  OwnAddresses own_addresses_;
  std::vector<UpstreamAddress> upstreams_;
  size_t preferred_upstream_ = 0;
  uint64_t now_ms_ = 0;
  uint64_t last_limit_notice_ms_ = 0;
  uint32_t limit_notices_suppressed_ = 0;

  std::vector<Flow*> dirty_;
  std::vector<Flow*> todo_;
  std::vector<Flow*> dead_;
  base::WriteBatch sends_;
  struct Sender {
    Flow* flow;  // null: taken back
    size_t bytes;
    ssize_t written;
  };
  std::vector<Sender> senders_;  // by place in sends_
  std::vector<Sender> sent_;
  const Flow* large_sender_ = nullptr;  // the last one of this round
  bool has_several_large_senders_ = false;
  bool had_several_large_senders_ = false;  // in the round before
  struct Due {
    uint64_t due_ms;
    Flow* flow;
  };
  std::deque<Due> held_acks_;
  std::deque<Due> gathered_;  // streams, until they are looked at
  std::deque<Due> silent_;    // sniffed flows, until they must have sent something
  std::deque<Due> slow_;      // sniffed flows that have, until they must have told their name

  static constexpr uint8_t kReadChunks = 16;  // of 64 KiB, per system call
  std::array<SendBuffer*, kReadChunks> scratch_{};
  tcp::BufferPool<SendBuffer> send_buffers_;
  uint64_t queued_bytes_ = 0;    // written and not acknowledged, all flows
  uint64_t buffers_in_use_ = 0;  // SendBuffers that lwIP refers to
  uint64_t sending_flows_ = 0;
  uint64_t held_back_flows_ = 0;

  static constexpr uint32_t kWheelSlots = 64;  // seconds
  std::array<Flow*, kWheelSlots> wheel_{};
  uint64_t wheel_now_s_ = 0;
  Work at_last_look_;    // a second ago
  Work at_last_return_;  // of memory
};

}  // namespace relay
