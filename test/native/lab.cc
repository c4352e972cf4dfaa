// A whole tunnel on a bench.
#include "lab.h"

#include <arpa/inet.h>

#include <cstring>

namespace lab {
namespace {

// A round trip of everything takes a few rounds; more without an end is a livelock.
constexpr int kMostRounds = 100'000;
constexpr int kTcpWaitMs = 1;  // for loopback TCP, which has a time of its own

template <class T>
T take(std::span<const uint8_t> bytes, size_t at) {
  T value = 0;
  for (size_t i = 0; i < sizeof value; i++)
    value = static_cast<T>(value | static_cast<T>(bytes[at + i]) << (8 * i));
  return value;
}

}  // namespace

engine::Options LabOptions::default_engine_options() {
  engine::Options o;
  o.relay.request = {"CONNECT ", " HTTP/1.1\r\nHost: ", "\r\n\r\n"};
  o.flow_events = true;
  return o;
}

Lab::Lab(LabOptions options) : options_(std::move(options)), now_ms_(options_.start_ms) {
  proxy.how = options_.dial;
  apps.set_now(now_ms_);
  auto created = engine::Engine::create(
      std::make_unique<MemoryDevice>(wire), std::make_unique<ForwardingDialer>(proxy),
      options_.engine, [this] { wakes++; }, options_.group, 0,
      options_.takes_datagrams ? std::function<void()>([this] { datagram_wakes++; }) : nullptr);
  if (!created) abort();  // no epoll: nothing can be tested
  engine_ = std::move(created.value());
  engine_->set_upstreams({upstream_address(3128)});
  engine_->step(0, now_ms_);
}

Lab::~Lab() = default;

bool Lab::round() {
  bool moved = !wire.to_engine.empty();
  if (!engine_->step(0, now_ms_)) return false;
  moved |= apps.deliver() > 0;
  moved |= proxy.pump();
  return moved || engine_->timeout_ms() == 0;
}

void Lab::settle() {
  bool has_tcp = proxy.how == Dial::kTcp;
  for (int i = 0; i < kMostRounds; i++) {
    if (round()) continue;
    if (!has_tcp) return;
    // Loopback TCP may need a moment of real time.
    uint64_t before = apps.packets_seen;
    engine_->step(kTcpWaitMs, now_ms_);
    bool moved = apps.deliver() > 0 || apps.packets_seen != before;
    if (!proxy.pump() && !moved && wire.to_engine.empty()) return;
  }
}

void Lab::advance(uint64_t ms) {
  for (uint64_t left = ms; left > 0;) {
    uint64_t step = std::min(left, kStepMs);
    left -= step;
    skip(step);
  }
}

void Lab::skip(uint64_t ms) {
  now_ms_ += ms;
  apps.set_now(now_ms_);
  settle();
}

ProxyEnd* Lab::proxy_of(const AppTcp& app) {
  std::string wanted = relay::authority_of(app.key());
  // The youngest: an authority may be asked for again.
  for (auto it = proxy.ends.rbegin(); it != proxy.ends.rend(); ++it)
    if ((*it)->authority() == wanted) return it->get();
  return nullptr;
}

Lab::Pair Lab::open(const AppOptions& options) {
  Pair pair;
  size_t known = proxy.ends.size();
  AppTcp& app = apps.connect(options);
  bool was_asked = until([&] {
    return proxy.ends.size() > known && proxy.ends.back()->request().ends_with("\r\n\r\n");
  });
  if (!was_asked) return pair;
  proxy.ends.back()->reply_ok();
  if (!until([&] { return app.is_connected; })) return pair;
  settle();
  pair.app = &app;
  pair.proxy = proxy.ends.back().get();
  return pair;
}

std::vector<EventRecord> Lab::events() {
  return decode_events(engine_->take_events()).value_or(std::vector<EventRecord>{});
}

std::optional<std::vector<EventRecord>> decode_events(std::span<const uint8_t> batch) {
  std::vector<EventRecord> out;
  for (size_t at = 0; at < batch.size();) {
    if (batch.size() - at < engine::kRecordBytes) return std::nullopt;
    auto length = take<uint16_t>(batch, at);
    if (length < engine::kRecordBytes || length > batch.size() - at) return std::nullopt;
    std::span<const uint8_t> r = batch.subspan(at, length);
    EventRecord e;
    e.kind = static_cast<relay::EventKind>(r[2]);
    e.family = r[3];
    e.app_port = take<uint16_t>(r, 4);
    e.destination_port = take<uint16_t>(r, 6);
    memcpy(e.app.data(), &r[8], 16);
    memcpy(e.destination.data(), &r[24], 16);
    e.status = take<uint16_t>(r, 40);
    e.error = take<uint16_t>(r, 42);
    e.duration_ms = take<uint32_t>(r, 44);
    e.to_upstream_bytes = take<uint64_t>(r, 48);
    e.to_app_bytes = take<uint64_t>(r, 56);
    e.left_out = take<uint32_t>(r, 64);
    size_t hostname_bytes = take<uint16_t>(r, 68);
    if (engine::kRecordBytes + hostname_bytes > length) return std::nullopt;
    auto text = r.begin() + engine::kRecordBytes + static_cast<std::ptrdiff_t>(hostname_bytes);
    e.hostname.assign(r.begin() + engine::kRecordBytes, text);
    e.text.assign(text, r.end());
    out.push_back(std::move(e));
    at += length;
  }
  return out;
}

std::string Lab::complaints() const {
  std::string out;
  auto note = [&](const char* what, uint64_t count) {
    if (count) out += std::string(what) + " " + std::to_string(count) + "; ";
  };
  note(apps.first_problem.c_str(), apps.broken_packets);
  for (const auto& app : apps.all()) {
    const AppComplaints& c = app->complaints;
    note("resets that no kernel believes", c.bad_resets);
    note("data beyond the window", c.beyond_window);
    note("acknowledged what was not sent", c.bad_acks);
    note("segments above the MSS", c.oversized);
    if (!may_reorder) note("windows shrunk", c.shrunk_windows);
  }
  return out;
}

std::string Lab::leftovers() {
  std::string out = complaints();
  if (!engine_) return out;
  wire.refused_writes = 0;
  for (auto& app : apps.all()) app->reset();
  for (auto& end : proxy.ends) end->close();
  // TIME_WAIT lasts a second. What then still lives is reset by name: it was lost track of.
  until([&] { return stack().size() == 0 && stats().active == 0; }, 3000);
  advance(1500);
  auto left = [&](const char* what, uint64_t count) {
    if (count) out += std::string(what) + " left: " + std::to_string(count) + "; ";
  };
  left("connections in the table", stack().size());
  left("active flows", stats().active);
  left("pending flows", stats().pending);
  left("bytes queued to apps", engine_->relay_for_tests().queued_bytes());
  left("bytes received", driver().receive_buffer_bytes());
  left("timers", engine_->relay_for_tests().timer_count());
  left("bytes of window promised", driver().promised_bytes());
  return out;
}

}  // namespace lab
