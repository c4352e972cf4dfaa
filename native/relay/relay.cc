// Flows from SYN to close: the life cycle. The way to the proxy is in dialling.cc, names are in
// naming.cc, bytes in pump.cc, time-outs in timing_wheel.cc.
#include "relay/relay.h"

#include <arpa/inet.h>
#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace relay {
namespace {

constexpr size_t kMaxReportedHead = 2048;
constexpr uint64_t kLimitNoticeEveryMs = 1000;
constexpr uint64_t kUnboundedShare = 1 << 20;  // of the kernel's receive queues, bytes
constexpr uint64_t kLeastShare = 64 << 10;
constexpr uint64_t kMostBytesOfRecycled = 256 << 10;
constexpr size_t kMaxUpstreams = 64;  // a flow counts them in a byte
constexpr std::string_view kHealthText = "proxyvpn\n";

// The tunnel's own address for "does it carry anything": 198.18.255.254 and fd70:7670:6e00::ffff,
// port 7, answered here and never sent to the proxy (src/tunstack/engine.ts, HEALTH).
bool is_health_address(const wire::FlowKey& key) {
  static constexpr uint8_t kV4[4] = {198, 18, 255, 254};
  static constexpr uint8_t kV6[16] = {0xfd, 0x70, 0x76, 0x70, 0x6e, 0, 0,    0,
                                      0,    0,    0,    0,    0,    0, 0xff, 0xff};
  if (key.destination_port != htons(7)) return false;
  return key.is_v6() ? memcmp(key.destination, kV6, 16) == 0 : memcmp(key.destination, kV4, 4) == 0;
}

bool is_shortage(int error) { return error == EMFILE || error == ENFILE; }

Flow& flow_of(stack::Connection& c) { return static_cast<Flow&>(c); }

}  // namespace

Relay::Relay(tun::PacketIo& io, Dialer& dialer, EventSink& events, int epoll_fd,
             const tcp::DriverOptions& driver_options, Options options,
             stack::Neighbours* neighbours)
    : dialer_(dialer),
      events_(events),
      sockets_(epoll_fd),
      options_(std::move(options)),
      stack_(io, *this, driver_options, neighbours,
             {.virtual_range = options_.names ? &options_.names->range() : nullptr,
              .catches_dns = options_.catches_dns,
              .mtu = driver_options.mtu}),
      driver_(stack_.driver()),
      predialer_(dialer, sockets_, options_.predial) {}

Relay::~Relay() {
  reset_all();
  for (SendBuffer* b : scratch_)
    if (b) send_buffers_.give(b);
}

void Relay::set_upstreams(std::vector<UpstreamAddress> upstreams) {
  upstreams_ = std::move(upstreams);
  if (upstreams_.size() > kMaxUpstreams) upstreams_.resize(kMaxUpstreams);
  preferred_upstream_ = 0;
  predialer_.close_all();
}

// ---- birth ----

stack::Connection* Relay::new_connection(const wire::FlowKey&) {
  if (stats_.pending >= options_.max_pending) {
    stats_.over_limit++;  // a SYN flood: the honest ones are repeated
    return nullptr;
  }
  return new Flow;
}

void Relay::on_held(stack::Connection& c) {
  Flow& flow = flow_of(c);
  flow.started_ms = now_ms_;
  touch(flow);
  stats_.active++;
  stats_.pending++;
  flow.is_counted_active = true;
  if (is_health_address(flow.key)) {
    answer_health_check(flow);
    return;
  }
  if (stats_.active > options_.max_flows) {
    notice_limit("flow limit reached: new connections are refused");
    stack_.refuse(flow);
    kill(flow);
    return;
  }
  if (!find_destination(flow)) return;
  wheel_insert(flow, next_check_ms(flow));
  bool is_sniffed = options_.sniffs && !flow.name && !flow.is_dns;
  if (options_.early_accept || is_sniffed) accept(flow);
  if (flow.phase == stack::Phase::kDead) return;
  if (is_sniffed) {
    start_sniffing(flow);
  } else {
    dial(flow);
  }
}

void Relay::answer_health_check(Flow& flow) {
  flow.is_health_check = true;
  wheel_insert(flow, next_check_ms(flow));
  accept(flow);
  if (!flow.pcb) return;
  driver_.write(flow, reinterpret_cast<const uint8_t*>(kHealthText.data()), kHealthText.size(),
                true);
  flow.written_bytes += kHealthText.size();
  flow.upstream_finished = true;
  on_work(flow);
}

void Relay::accept(Flow& flow) {
  bool was_held = flow.phase == stack::Phase::kHeld;
  bool accepted = stack_.accept(flow);
  if (was_held) note_pending_over();
  if (!accepted) {
    abort_app(flow);
    return;
  }
  on_work(flow);
}

void Relay::note_pending_over() {
  if (stats_.pending > 0) stats_.pending--;
}

void Relay::note_inactive(Flow& flow) {
  if (flow.is_counted_active) stats_.active--;
  flow.is_counted_active = false;
}

// ---- answers ----

void Relay::succeed(Flow& flow, std::span<const uint8_t> early_data) {
  flow.reply.reset();
  flow.upstream_phase = UpstreamPhase::kRelaying;
  stats_.opened++;
  if (flow.phase == stack::Phase::kHeld) accept(flow);
  if (flow.phase != stack::Phase::kOpen || !flow.pcb) return;
  // It stood in the wheel for the dial's time-out, which may be later than the next one.
  wheel_remove(flow);
  wheel_insert(flow, next_check_ms(flow));
  events_.on_flow_event(EventKind::kOpened, flow, 0, 0, {});
  if (!flow.is_dns) dialer_.note_connected(flow.fd);
  bound_receive_queue(flow);
  flow.takes_large_packets = takes_large_packets(flow);
  if (!early_data.empty()) {
    if (!driver_.write(flow, early_data.data(), static_cast<uint32_t>(early_data.size()), true))
      return abort_app(flow);
    flow.written_bytes += early_data.size();
    queued_bytes_ += early_data.size();
    stats_.to_app_bytes += early_data.size();
    // After the handshake nothing else sends it; before, the app's ACK does.
    if (flow.is_established) driver_.flush(flow);
  }
  on_work(flow);
}

// What nobody reads waits in the kernel, where no budget of ours holds: in a crowd each socket gets
// a share of it instead of a window that grows with the speed of its first second. Beyond what the
// kernel has for all of TCP (tcp_mem) it drops what it has announced to take, and the sender's rate
// collapses. A flow that sends and is held back counts twice: both its queues are full.
void Relay::bound_receive_queue(Flow& flow) {
  uint64_t crowd = std::max<uint64_t>(sending_flows_ + held_back_flows_ + stats_.pending, 1);
  uint64_t share = options_.send_limit / crowd;
  flow.has_bounded_queue = share < kUnboundedShare;
  if (flow.has_bounded_queue)
    limit_receive_queue(flow.fd, static_cast<uint32_t>(std::max(share, kLeastShare)));
}

// Only then its kernel takes large packets as they are (tcp/packet_writer.h, IPv4 alone).
bool Relay::takes_large_packets(const Flow& flow) {
  if (flow.key.is_v6()) return false;
  if (options_.is_app_here) return options_.is_app_here(flow.key);
  return own_addresses_.has_app_of(flow.key, now_ms_);
}

void Relay::refuse(Flow& flow, int status, std::string_view head) {
  stats_.refused++;
  events_.on_flow_event(EventKind::kRefused, flow, status, 0, head.substr(0, kMaxReportedHead));
  constexpr int kGatewayTimeout = 504;
  answer_failure(flow, status == kGatewayTimeout ? EHOSTUNREACH : ECONNREFUSED);
}

void Relay::fail(Flow& flow, int error, std::string_view text) {
  if (is_shortage(error)) {  // an event for each would be a flood, and says nothing of the proxy
    notice_limit("out of file descriptors: new connections are refused");
  } else {
    stats_.failed++;
    events_.on_flow_event(EventKind::kFailed, flow, 0, error, text);
  }
  answer_failure(flow, error);
}

// What connect() shall say: RST makes it ECONNREFUSED; a proxy that cannot be reached is a network
// that cannot be reached.
void Relay::answer_failure(Flow& flow, int error) {
  if (flow.phase != stack::Phase::kHeld) {
    abort_app(flow);
    return;
  }
  bool is_proxy_unreachable = flow.upstream_phase == UpstreamPhase::kNone ||
                              flow.upstream_phase == UpstreamPhase::kConnecting;
  if (flow.is_dns) {
    stack_.refuse(flow);  // of our own server nothing but "not now" is to be told
  } else if (error == EHOSTUNREACH || error == ETIMEDOUT) {
    stack_.refuse_unreachable(flow, wire::Unreachable::kHost);
  } else if (is_proxy_unreachable && !is_shortage(error)) {
    stack_.refuse_unreachable(flow, wire::Unreachable::kNetwork);
  } else {
    stack_.refuse(flow);
  }
  flow.was_reset = true;
  kill(flow);
}

void Relay::notice_limit(const char* what) {
  stats_.over_limit++;
  if (last_limit_notice_ms_ && now_ms_ - last_limit_notice_ms_ < kLimitNoticeEveryMs) {
    limit_notices_suppressed_++;
    return;
  }
  last_limit_notice_ms_ = now_ms_;
  events_.on_notice(what, std::exchange(limit_notices_suppressed_, 0));
}

// ---- what happens to a flow ----

void Relay::on_socket(int fd, uint32_t events) {
  if (Flow* flow = sockets_.flow_of(fd)) {
    on_flow_socket(*flow, events);
  } else {
    predialer_.on_socket(fd, events, now_ms_);
  }
}

void Relay::on_flow_socket(Flow& flow, uint32_t events) {
  if (flow.phase == stack::Phase::kDead || flow.fd < 0) return;
  if (events & EPOLLOUT) flow.can_write = true;
  if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) flow.upstream_hung_up = true;
  if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) flow.can_read = true;
  // A read stops short at urgent data (tcp(7)), not only at the end. And before a flow relays, an
  // event may be of what its descriptor was before.
  constexpr uint32_t kAnyEnd = EPOLLRDHUP | EPOLLHUP | EPOLLERR;
  flow.has_end_in_queue = flow.upstream_phase == UpstreamPhase::kRelaying &&
                          (events & (kAnyEnd | EPOLLPRI)) == EPOLLRDHUP;
  if (flow.upstream_phase == UpstreamPhase::kConnecting) {
    if (events & (EPOLLERR | EPOLLHUP)) {
      int error = 0;
      socklen_t length = sizeof error;
      getsockopt(flow.fd, SOL_SOCKET, SO_ERROR, &error, &length);
      if (error) return dial_failed(flow, error);  // else it is of what the descriptor was before
    }
    if (flow.can_write && !flow.is_send_put_off)
      if (int error = send_request(flow)) return dial_failed(flow, error);
    // Nobody answers a PROXY line.
    if (flow.is_dns && flow.upstream_phase == UpstreamPhase::kAsked) return succeed(flow, {});
  }
  if (flow.upstream_phase == UpstreamPhase::kAsked && flow.can_read) read_reply(flow);
  if (flow.upstream_phase == UpstreamPhase::kRelaying) work(flow);
}

void Relay::on_withdrawn(stack::Connection& c) {
  c.was_reset = true;
  kill(flow_of(c));
}

void Relay::on_input(stack::Connection& c) {
  // The upstream gets its data while it is still in the cache.
  Flow& flow = flow_of(c);
  if (flow.received_bytes >= 65536 && flow.can_write) pump_to_upstream(flow);
}

void Relay::on_work(tcp::Endpoint& endpoint) {
  auto& flow = static_cast<Flow&>(endpoint);
  if (flow.is_dirty || flow.phase == stack::Phase::kDead) return;
  flow.is_dirty = true;
  dirty_.push_back(&flow);
}

void Relay::work(Flow& flow) {
  if (flow.phase != stack::Phase::kOpen) return;
  if (flow.in_time_wait) {
    stack_.enter_time_wait(flow);
    note_inactive(flow);  // nothing can come of it any more
  }
  if (flow.sniffing) {
    sniff(flow);
    if (flow.phase != stack::Phase::kOpen) return;
  }
  settle_acks(flow);
  pump_to_upstream(flow);
  if (flow.phase == stack::Phase::kOpen) pump_to_app(flow);
  if (flow.phase == stack::Phase::kOpen) finish_to_app(flow);
  settle(flow);
}

// ---- end ----

void Relay::abort_app(Flow& flow) {
  flow.was_reset = true;
  if (flow.pcb && !flow.in_time_wait) {
    stats_.reset++;
    driver_.abort(flow);
  }
  settle(flow);
}

// Is there anything left to do for this flow?
void Relay::settle(Flow& flow) {
  if (flow.phase != stack::Phase::kOpen) return;
  bool app_is_gone = !flow.pcb || flow.in_time_wait;
  bool upstream_is_done = flow.upstream_finished && flow.fin_to_upstream;
  if (app_is_gone && flow.was_reset) {
    driver_.drop_received(flow);
    close_socket(flow);
  } else if (upstream_is_done || (app_is_gone && !flow.received_head)) {
    close_socket(flow);
  }
  if (!flow.pcb && flow.fd < 0) kill(flow);
}

void Relay::close_socket(Flow& flow) {
  if (flow.fd < 0) return;
  if (flow.was_reset) {  // a RST of the app's stays a RST
    linger hard{1, 0};
    setsockopt(flow.fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
  }
  if (flow.is_send_put_off) take_back_send(flow);
  base::UniqueFd fd(std::exchange(flow.fd, -1));
  sockets_.release(fd.get());
  if (is_recyclable(flow)) dialer_.recycle(std::move(fd));
  hold_back(flow, false);
  flow.can_read = flow.can_write = false;
}

// One that ended in order, and whose buffers and options are as new.
bool Relay::is_recyclable(const Flow& flow) const {
  bool is_over = flow.upstream_finished && flow.fin_to_upstream && !flow.was_reset;
  bool is_as_new = !flow.has_keepalive && !flow.has_bounded_queue &&
                   flow.written_bytes + flow.to_upstream_bytes <= kMostBytesOfRecycled;
  return is_over && is_as_new && !flow.is_dns;
}

void Relay::kill(Flow& flow) {
  if (flow.phase == stack::Phase::kDead) return;
  if (flow.phase == stack::Phase::kHeld) note_pending_over();
  bool was_relaying = flow.upstream_phase == UpstreamPhase::kRelaying;
  flow.phase = stack::Phase::kDead;
  if (was_relaying)
    events_.on_flow_event(EventKind::kClosed, flow, 0, flow.was_reset ? ECONNRESET : 0, {});
  note_inactive(flow);
  stack_.remove(flow);
  close_socket(flow);
  driver_.drop_received(flow);
  drop_send_queue(flow);
  flow.reply.reset();
  flow.name.reset();
  flow.sniffing.reset();
  wheel_remove(flow);
  bury(flow);
}

// Freed at the end of a round, when no queue names it any more.
void Relay::bury(Flow& flow) {
  if (flow.is_buried) return;
  flow.is_buried = true;
  dead_.push_back(&flow);
}

void Relay::on_time_wait_over(stack::Connection& c) {
  Flow& flow = flow_of(c);
  if (flow.phase == stack::Phase::kDead) {
    if (!flow.timers_pending) bury(flow);
    return;
  }
  settle(flow);
}

void Relay::run() {
  check_gathered();
  // Work may make more work (a flow that used up its budget): one round each, then back to epoll.
  todo_.swap(dirty_);
  for (Flow* flow : todo_) {
    flow->is_dirty = false;
    work(*flow);
  }
  todo_.clear();
  send_held_acks();
  make_sends();
  driver_.submit_packets();
  had_several_large_senders_ = std::exchange(has_several_large_senders_, false);
  large_sender_ = nullptr;
  std::erase_if(dead_, [](Flow* flow) {
    if (flow->is_dirty) return false;
    flow->is_buried = false;
    if (!flow->timers_pending) delete flow;  // else the time queue buries it again
    return true;
  });
}

void Relay::set_now(uint64_t now_ms) {
  now_ms_ = now_ms;
  stack_.set_now(now_ms);
}

void Relay::run_timers() {
  stack_.run_timers();
  run_wheel();
  run_sniff_limits();
}

int Relay::timeout_ms() const {
  if (!dirty_.empty() || !dead_.empty()) return 0;
  int timeout = stack_.timeout_ms();
  auto earlier = [&](uint64_t due_ms) {
    int left = due_ms > now_ms_ ? static_cast<int>(due_ms - now_ms_) : 0;
    if (timeout < 0 || left < timeout) timeout = left;
  };
  for (const std::deque<Due>* queue : {&held_acks_, &gathered_, &silent_, &slow_})
    if (!queue->empty()) earlier(queue->front().due_ms);
  if (stack_.size() > 0 || options_.predial > 0 || has_idle_memory() || owes_memory())
    earlier((now_ms_ / 1000 + 1) * 1000);
  return timeout;
}

size_t Relay::timer_count() const {
  return stack_.timer_count() + held_acks_.size() + gathered_.size() + silent_.size() +
         slow_.size();
}

void Relay::reset_all() {
  std::vector<Flow*> all;
  stack_.for_each([&](stack::Connection& c) { all.push_back(&flow_of(c)); });
  for (Flow* head : wheel_)
    for (Flow* flow = head; flow; flow = flow->wheel_next)
      if (!flow->is_in_table) all.push_back(flow);  // still draining, its port taken over
  for (Flow* flow : all) {
    if (flow->phase == stack::Phase::kHeld) {
      stack_.refuse(*flow);
      flow->was_reset = true;
      kill(*flow);
    } else {
      abort_app(*flow);
    }
  }
  set_now(now_ms_ + 5000);  // TIME_WAIT and held ACKs have nobody left to wait for
  run_timers();
  for (Flow* flow : dirty_) flow->is_dirty = false;
  run();
  for (Flow* flow : dead_) delete flow;
  dead_.clear();
}

}  // namespace relay
