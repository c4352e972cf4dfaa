// The one thread: epoll over the TUN queue and all upstream sockets, timers, commands.
#include "engine/engine.h"

#include <pthread.h>
#include <sys/eventfd.h>
#include <time.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>

namespace engine {
namespace {

constexpr int kEventsPerRound = 512;
constexpr int kPacketsPerRound = 64;  // then the sockets get their turn
constexpr size_t kMostReplyBytesWaiting = 4 << 20;
constexpr uint64_t kMuch = 8192;  // bytes carried in a round, more than a message and its answer

uint64_t monotonic_ns() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

}  // namespace

uint64_t monotonic_ms() { return monotonic_ns() / 1'000'000; }

base::Result<std::unique_ptr<Engine>> Engine::create(std::unique_ptr<tun::PacketIo> device,
                                                     std::unique_ptr<relay::Dialer> dialer,
                                                     Options options, std::function<void()> wake,
                                                     std::shared_ptr<QueueGroup> group,
                                                     uint32_t queue,
                                                     std::function<void()> wake_datagrams) {
  base::UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll) return base::Failure{"epoll_create1", errno};
  base::UniqueFd wakeup(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!wakeup) return base::Failure{"eventfd", errno};
  std::unique_ptr<GroupMember> member;
  if (group) member = std::make_unique<GroupMember>(std::move(group), queue);
  auto engine = std::unique_ptr<Engine>(new Engine(
      std::move(device), std::move(dialer), std::move(options), std::move(wake), std::move(epoll),
      std::move(wakeup), std::move(member), std::move(wake_datagrams)));
  const int device_fd = engine->device_->fd();
  bool is_watching =
      (device_fd < 0 || engine->watch(device_fd, &engine->device_, true)) &&
      engine->watch(engine->wakeup_.get(), &engine->wakeup_, true) &&
      (!engine->member_ || engine->watch(engine->member_->event_fd(), &engine->member_, true));
  if (!is_watching) return base::Failure{"epoll_ctl", errno};
  if (engine->member_ && device_fd >= 0)
    if (int error = engine->member_->share_device(device_fd)) return base::Failure{"dup", error};
  return engine;
}

bool Engine::watch(int fd, void* who, bool is_watched) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.ptr = who;
  return epoll_ctl(epoll_.get(), is_watched ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, fd, &event) == 0;
}

Engine::Engine(std::unique_ptr<tun::PacketIo> device, std::unique_ptr<relay::Dialer> dialer,
               Options options, std::function<void()> wake, base::UniqueFd epoll,
               base::UniqueFd wakeup, std::unique_ptr<GroupMember> member,
               std::function<void()> wake_datagrams)
    : device_(std::move(device)),
      dialer_(std::move(dialer)),
      options_(std::move(options)),
      epoll_(std::move(epoll)),
      wakeup_(std::move(wakeup)),
      member_(std::move(member)),
      events_(std::move(wake)),
      datagrams_(std::move(wake_datagrams)) {
  tun::PacketIo* io = device_.get();
  if (options_.faults.any()) io = &lossy_.emplace(*io, options_.faults);
  relay::EventSink& sink = *this;
  relay_ = std::make_unique<relay::Relay>(*io, *dialer_, sink, epoll_.get(), options_.driver,
                                          options_.relay, member_.get());
}

Engine::~Engine() {
  stop();
  relay_.reset();
}

void Engine::start() {
  thread_ = std::thread([this] { run(); });
}

void Engine::stop() {
  is_stopping_ = true;
  post([] {});
  if (thread_.joinable()) thread_.join();
}

void Engine::run() {
  pthread_setname_np(pthread_self(), "proxyvpn-engine");
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);  // signals are node's
  relay_->set_now(monotonic_ms());
  while (!is_stopping_) {
    if (!step(timeout_ms(), 0)) break;
  }
  relay_->reset_all();
  publish_counters();
  run_commands();
}

int Engine::wait(epoll_event* ready, int timeout_ms) {
  auto sleep = [&] { return epoll_wait(epoll_.get(), ready, kEventsPerRound, timeout_ms); };
  if (timeout_ms == 0) return sleep();
  if (has_carried_much_) {
    short_waits_.forget();
    return sleep();
  }
  uint64_t began_ns = monotonic_ns();
  int count = 0;
  if (!short_waits_.is_next_expected() || !begin_polling()) {
    count = sleep();
    short_waits_.slept(monotonic_ns() - began_ns);
    return count;
  }
  do {
    count = epoll_wait(epoll_.get(), ready, kEventsPerRound, 0);
  } while (count == 0 && monotonic_ns() - began_ns < ShortWaits::kPollNs);
  end_polling();
  short_waits_.polled(count == 0);
  return count == 0 ? sleep() : count;
}

// Who is waited for needs a processor, too.
bool Engine::begin_polling() {
  return member_ ? member_->begin_polling() : std::thread::hardware_concurrency() > 1;
}

void Engine::end_polling() {
  if (member_) member_->end_polling();
}

// For a moment both may read a queue, or nobody: packets wait, and strays are passed on. Each
// engine has its part of the connections that are open before they are needed, so then all are
// needed: the first, which judges, has a part if any has.
void Engine::follow_group() {
  if (!member_ || options_.relay.predial > 0) return;
  if (member_->judge(now_ms_) == is_concentrated_) return;
  is_concentrated_ = !is_concentrated_;
  if (!member_->is_reader()) {
    watch(device_->fd(), &device_, !is_concentrated_);
    return;
  }
  if (others_.empty()) others_ = member_->others_devices();
  for (tun::PacketIo*& queue : others_) watch(queue->fd(), &queue, is_concentrated_);
}

void Engine::find_place() {
  if (!member_) return;
  if (std::optional<ThreadShare> share = times_.take(now_ms_))
    if (int processor = member_->place(*share, now_ms_); processor >= 0) go_to_processor(processor);
}

bool Engine::is_other_queue(const void* who) const {
  return std::any_of(others_.begin(), others_.end(), [who](auto& queue) { return &queue == who; });
}

bool Engine::step(int timeout_ms, uint64_t now_ms) {
  epoll_event ready[kEventsPerRound];
  if (device_may_have_more_) timeout_ms = 0;
  int count = wait(ready, timeout_ms);
  now_ms_ = now_ms ? now_ms : monotonic_ms();
  relay_->set_now(now_ms_);
  relay_->run_timers();
  follow_group();
  find_place();
  bool device_is_ready = device_may_have_more_ || device_->fd() < 0;
  bool others_are_ready = false;
  for (int i = 0; i < count; i++) {
    void* who = ready[i].data.ptr;
    if (who == &device_) {
      device_is_ready = true;
    } else if (who == &wakeup_) {
      run_commands();
    } else if (who == &member_) {
      for (const auto& packet : member_->take()) relay_->stack().take_packet(packet);
    } else if (is_other_queue(who)) {
      others_are_ready = true;
    } else {
      relay_->on_socket(static_cast<int>(ready[i].data.u64), ready[i].events);
    }
  }
  int more = device_is_ready ? relay_->stack().read_packets(kPacketsPerRound) : 0;
  if (others_are_ready)
    for (tun::PacketIo* queue : others_) relay_->stack().read_strays(*queue, kPacketsPerRound);
  hand_over_datagrams();
  relay_->run();
  const relay::RelayStats& now = relay_->stats();
  auto since = [this](uint64_t sum, Counter before) { return sum - counters_.get(before); };
  has_carried_much_ = since(now.to_upstream_bytes, Counter::kBytesToUpstream) +
                          since(now.to_app_bytes, Counter::kBytesToApp) >=
                      kMuch;
  publish_counters();
  if (more < 0) {
    events_.push(relay::EventKind::kFatal, nullptr, now_ms_, 0, -more, "the TUN device is gone");
    return false;
  }
  device_may_have_more_ = (more > 0 && device_->fd() < 0) || (lossy_ && lossy_->has_arrived());
  return true;
}

// ---- commands ----

void Engine::post(std::function<void()> command) {
  {
    std::lock_guard lock(commands_mutex_);
    commands_.push_back(std::move(command));
  }
  uint64_t one = 1;
  if (write(wakeup_.get(), &one, sizeof one) < 0) return;  // the counter is full: it will wake
}

void Engine::run_commands() {
  uint64_t count;
  if (read(wakeup_.get(), &count, sizeof count) < 0) count = 0;
  std::vector<std::function<void()>> commands;
  {
    std::lock_guard lock(commands_mutex_);
    commands.swap(commands_);
  }
  for (auto& command : commands) command();
}

void Engine::set_upstreams(std::vector<relay::UpstreamAddress> upstreams) {
  post([this, upstreams = std::move(upstreams)]() mutable {
    relay_->set_upstreams(std::move(upstreams));
  });
}

void Engine::list_flows(size_t limit, std::function<void(std::vector<uint8_t>)> done) {
  post([this, limit, done = std::move(done)] {
    std::vector<uint8_t> out;
    size_t left = limit;
    relay_->stack().for_each([&](stack::Connection& c) {
      if (left == 0) return;
      left--;
      encode_event(out, relay::EventKind::kOpened, static_cast<relay::Flow*>(&c), now_ms_, 0, 0, 0,
                   {});
    });
    done(std::move(out));
  });
}

void Engine::send_datagrams(std::vector<uint8_t> records) {
  if (reply_bytes_waiting_ + records.size() > kMostReplyBytesWaiting) {
    dropped_replies_++;
    return;
  }
  reply_bytes_waiting_ += records.size();
  post([this, records = std::move(records)] {
    reply_bytes_waiting_ -= records.size();
    relay_->stack().datagrams().send(records);
  });
}

// ---- what leaves ----

void Engine::hand_over_datagrams() {
  stack::Datagrams& datagrams = relay_->stack().datagrams();
  if (!datagrams.has_batch()) return;
  stack::DatagramBatch batch = datagrams.take_batch();
  uint32_t count = batch.count;
  if (!datagrams_.push(std::move(batch))) dropped_queries_ += count;
}

void Engine::publish_counters() {
  const relay::RelayStats& r = relay_->stats();
  const stack::StackStats& s = relay_->stack().stats();
  const stack::DatagramStats& u = relay_->stack().datagrams().stats();
  const tcp::DriverStats& d = relay_->stack().driver().stats();
  const tcp::WriterStats& w = relay_->stack().driver().writer_stats();
  counters_.set(Counter::kActiveFlows, r.active);
  counters_.set(Counter::kOpenedFlows, r.opened);
  counters_.set(Counter::kRefusedFlows, r.refused);
  counters_.set(Counter::kFailedFlows, r.failed);
  counters_.set(Counter::kBytesToUpstream, r.to_upstream_bytes);
  counters_.set(Counter::kBytesToApp, r.to_app_bytes);
  counters_.set(Counter::kPacketsFromApp, s.packets_from_app);
  counters_.set(Counter::kPacketsToApp, w.packets);
  counters_.set(Counter::kMalformedPackets, s.malformed + s.bad_checksum + u.malformed);
  counters_.set(Counter::kIgnoredPackets, u.ignored);
  counters_.set(Counter::kResetFlows, r.reset);
  counters_.set(Counter::kPendingFlows, r.pending);
  counters_.set(Counter::kOverLimitFlows, r.over_limit);
  counters_.set(Counter::kBufferedBytes,
                relay_->queued_bytes() + relay_->stack().driver().receive_buffer_bytes());
  counters_.set(Counter::kGivenUpFlows, d.given_up);
  counters_.set(Counter::kTunWriteErrors, w.errors);
  counters_.set(Counter::kDatagramsFromApp, u.collected);
  counters_.set(Counter::kDatagramsToApp, u.sent);
  counters_.set(Counter::kDroppedDatagrams, u.dropped + dropped_queries_ + dropped_replies_);
  counters_.set(Counter::kRefusedDatagrams, u.unreachable);
  counters_.set(Counter::kUnnamedFlows, r.unnamed);
  counters_.set(Counter::kConnections, relay_->stack().size());
  counters_.set(Counter::kTimers, relay_->timer_count());
  counters_.set(Counter::kPredialledFlows, r.predialled);
  if (member_)
    member_->publish({.ended = static_cast<int64_t>(r.opened - (r.active - r.pending)),
                      .bytes = r.to_upstream_bytes + r.to_app_bytes,
                      .open = r.active});
}

void Engine::on_flow_event(relay::EventKind kind, const relay::Flow& flow, int status, int error,
                           std::string_view text) {
  bool is_routine = kind == relay::EventKind::kOpened || kind == relay::EventKind::kClosed;
  if (is_routine && !options_.flow_events) return;
  events_.push(kind, &flow, now_ms_, status, error, text);
}

void Engine::on_notice(std::string_view text, uint32_t similar) {
  events_.push(relay::EventKind::kNotice, nullptr, now_ms_, 0, 0, text, similar);
}

}  // namespace engine
