// The engine as TypeScript sees it: counters, event records, lists, a device that goes away, and a
// second life in the same process.
#include <sys/socket.h>

#include <cerrno>
#include <thread>

#include "checked_lab.h"
#include "tun/tun_device.h"

using engine::Counter;
using lab::AppTcp;
using lab::CheckedLab;
using lab::EventRecord;
using lab::Lab;
using lab::LabOptions;
using relay::EventKind;

namespace {

LabOptions quiet() {
  LabOptions options;
  options.engine.flow_events = false;
  return options;
}

size_t count(const std::vector<EventRecord>& events, EventKind kind) {
  size_t n = 0;
  for (const auto& e : events) n += e.kind == kind;
  return n;
}

// A dialer with one connection to give.
class OneSocket final : public relay::Dialer {
 public:
  explicit OneSocket(int fd) : fd_(fd) {}
  int dial(const relay::UpstreamAddress&, bool& in_progress) override {
    in_progress = false;
    return fd_ ? fd_.release() : -ECONNREFUSED;
  }

 private:
  base::UniqueFd fd_;
};

// Packets between a datagram socket, which stands for the device, and a wire.
void shuttle(int fd, lab::Wire& wire) {
  static uint8_t buffer[70'000];
  for (;;) {
    ssize_t n = recv(fd, buffer, sizeof buffer, MSG_DONTWAIT);
    if (n <= 0) break;
    wire.from_engine.emplace_back(buffer, buffer + n);
  }
  while (wire.next_to_engine < wire.to_engine.size()) {
    const lab::Bytes& packet = wire.to_engine[wire.next_to_engine];
    if (send(fd, packet.data(), packet.size(), MSG_DONTWAIT) < 0) return;
    wire.next_to_engine++;
  }
  wire.to_engine.clear();
  wire.next_to_engine = 0;
}

}  // namespace

TEST("an opened and closed flow is told with its addresses, times and bytes") {
  CheckedLab lab;
  auto pair = lab.open({.is_v6 = true, .port = 0x1234, .destination_port = 0x0102});
  REQUIRE(pair);
  auto opened = lab.events();
  REQUIRE(opened.size() == 1);
  CHECK_EQ(opened[0].kind, EventKind::kOpened);
  CHECK_EQ(opened[0].family, 6);
  CHECK_EQ(opened[0].app_port, 0x1234);
  CHECK_EQ(opened[0].destination_port, 0x0102);
  const std::array<uint8_t, 16> app = {0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10};
  const std::array<uint8_t, 16> to = {0x20, 1, 0xd, 0xb8, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5};
  CHECK(opened[0].app == app);
  CHECK(opened[0].destination == to);
  lab.advance(5000);
  exchange(lab, pair, 70'000, 80'000);
  REQUIRE(lab.until([&] { return lab.stack().size() == 0; }, 2000));
  auto closed = lab.events();
  REQUIRE(closed.size() == 1);
  CHECK_EQ(closed[0].kind, EventKind::kClosed);
  CHECK_EQ(closed[0].to_upstream_bytes, 70'000u);
  CHECK_EQ(closed[0].to_app_bytes, 80'000u);
  CHECK_EQ(closed[0].error, 0);
  CHECK(closed[0].duration_ms >= 5000 && closed[0].duration_ms < 8000);
}

TEST("an IPv4 address stands in the first four bytes, the rest zero") {
  CheckedLab lab;
  REQUIRE(lab.open());
  auto events = lab.events();
  REQUIRE(events.size() == 1);
  const std::array<uint8_t, 16> to = {203, 0, 113, 5};
  CHECK(events[0].destination == to);
  CHECK_EQ(events[0].family, 4);
}

TEST("without flow events, refusals and failures are told all the same") {
  CheckedLab lab(quiet());
  auto pair = lab.open();
  AppTcp& refused = lab.apps.connect();
  REQUIRE(pair);
  REQUIRE(lab.until([&] { return lab.proxy_of(refused) != nullptr; }));
  lab.proxy.ends.back()->send("HTTP/1.1 403 No\r\n\r\n");
  AppTcp& failed = lab.apps.connect();
  REQUIRE(lab.until([&] { return lab.proxy.ends.size() == 3; }));
  lab.proxy.ends.back()->close();
  REQUIRE(lab.until([&] { return refused.was_refused && failed.was_refused; }));
  pair.app->reset();
  lab.settle();
  auto events = lab.events();
  CHECK_EQ(count(events, EventKind::kOpened) + count(events, EventKind::kClosed), 0u);
  CHECK_EQ(count(events, EventKind::kRefused), 1u);
  CHECK_EQ(count(events, EventKind::kFailed), 1u);
}

TEST("a batch wakes the reader once, and is handed over once") {
  CheckedLab lab;
  REQUIRE(lab.open() && lab.open() && lab.open());
  CHECK_EQ(lab.wakes, 1u);
  CHECK_EQ(lab.events().size(), 3u);
  CHECK_EQ(lab.events().size(), 0u);
  REQUIRE(lab.open());
  CHECK_EQ(lab.wakes, 2u);
}

TEST("a hundred records of a kind are kept per second, and the next tells how many were not") {
  CheckedLab lab({.dial = lab::Dial::kError});
  lab.proxy.next_error = ECONNREFUSED;
  for (int i = 0; i < 250; i++) lab.apps.connect();
  lab.settle();
  CHECK_EQ(count(lab.events(), EventKind::kFailed), 100u);
  lab.advance(1000);
  lab.apps.connect();
  lab.settle();
  auto events = lab.events();
  REQUIRE(events.size() == 1);
  CHECK_EQ(events[0].left_out, 150u);
  CHECK_EQ(lab.counter(Counter::kFailedFlows), 251u);
}

TEST("a long reply head is told shortened, in a record that is whole") {
  CheckedLab lab;
  AppTcp& app = lab.apps.connect();
  REQUIRE(lab.until([&] { return lab.proxy_of(app) != nullptr; }));
  lab.proxy_of(app)->send("HTTP/1.1 403 No\r\nX: " + std::string(60'000, 'x') + "\r\n\r\n");
  REQUIRE(lab.until([&] { return app.was_refused; }));
  auto events = lab::decode_events(lab.engine().take_events());
  REQUIRE(events && events->size() == 1);
  CHECK_EQ((*events)[0].status, 403);
  CHECK_EQ((*events)[0].text.size(), 2048u);
}

TEST("counters count what happened") {
  CheckedLab lab;
  auto pair = lab.open();
  REQUIRE(pair);
  CHECK_EQ(lab.counter(Counter::kActiveFlows), 1u);
  CHECK_EQ(lab.counter(Counter::kOpenedFlows), 1u);
  exchange(lab, pair, 1000, 2000);
  CHECK_EQ(lab.counter(Counter::kBytesToUpstream), 1000u);
  CHECK_EQ(lab.counter(Counter::kBytesToApp), 2000u);
  uint64_t from_app = lab.counter(Counter::kPacketsFromApp);
  CHECK(from_app >= 4);
  CHECK_EQ(lab.counter(Counter::kPacketsToApp), lab.apps.packets_seen);
  lab.wire.push({});                    // shorter than the device's header
  lab.wire.push(lab::Bytes(10));        // no packet behind it
  lab.wire.push(lab::Bytes(60, 0x45));  // lengths that lie
  lab::Bytes udp(10 + 28);
  udp[10] = 0x45;
  udp[13] = 28;
  udp[19] = 17;
  udp[33] = 53;  // to port 53 of nobody, from nobody
  udp[35] = 8;
  lab.wire.push(udp);
  lab.settle();
  CHECK_EQ(lab.counter(Counter::kPacketsFromApp), from_app + 4);
  CHECK_EQ(lab.counter(Counter::kMalformedPackets), 3u);
  CHECK_EQ(lab.counter(Counter::kIgnoredPackets), 1u);
}

TEST("flows are listed up to the limit, each as a record") {
  CheckedLab lab;
  for (int i = 0; i < 20; i++) REQUIRE(lab.open());
  lab.apps.connect();  // held ones too
  lab.settle();
  for (size_t limit : {size_t{0}, size_t{5}, size_t{21}, size_t{1000}}) {
    std::optional<std::vector<EventRecord>> listed;
    lab.engine().list_flows(
        limit, [&](std::vector<uint8_t> batch) { listed = lab::decode_events(batch); });
    lab.settle();
    REQUIRE(listed.has_value());
    CHECK_EQ(listed->size(), std::min<size_t>(limit, 21));
    for (const auto& e : *listed) CHECK_EQ(e.destination_port, 443);
  }
}

TEST("a device that goes away is told as fatal") {
  CheckedLab lab;
  REQUIRE(lab.open());
  lab.events();
  lab.wire.is_gone = true;
  CHECK(!lab.engine().step(0, lab.now_ms()));
  auto events = lab.events();
  REQUIRE(events.size() == 1);
  CHECK_EQ(events[0].kind, EventKind::kFatal);
  CHECK_EQ(events[0].error, EBADFD);
  lab.wire.is_gone = false;
}

TEST("an engine after another works as the first did, whatever the first left behind") {
  for (int life = 0; life < 3; life++) {
    Lab lab;
    auto pair = lab.open();
    REQUIRE(pair);
    // Left with data queued both ways, out of order, unacknowledged, and a SYN held.
    pair.app->inject(lab::kAck, pair.app->snd_nxt() + 5000, pair.app->rcv_nxt(),
                     lab::pattern(1, 9000));
    pair.app->set_silent(true);
    pair.proxy->send(lab::pattern(2, 500'000));
    lab.apps.connect();
    lab.settle();
    CHECK_EQ(lab.counter(Counter::kActiveFlows), 2u);
    lab.destroy_engine();
    CheckedLab next;
    auto again = next.open({.is_v6 = life % 2 == 1});
    REQUIRE(again);
    exchange(next, again, 100'000, 100'000);
    CHECK_EQ(next.driver().receive_buffer_bytes(), 0u);
  }
}

TEST("on its own thread the engine carries a flow, answers commands, and stops twice") {
  int device[2], upstream[2];
  REQUIRE(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, device) == 0);
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, upstream) == 0);
  base::UniqueFd kernel(device[1]);
  lab::ProxyEnd proxy{base::UniqueFd(upstream[1])};
  auto created = engine::Engine::create(std::make_unique<tun::TunDevice>(base::UniqueFd(device[0])),
                                        std::make_unique<OneSocket>(upstream[0]),
                                        LabOptions::default_engine_options(), [] {});
  REQUIRE(created);
  auto& engine = *created.value();
  engine.set_upstreams({lab::upstream_address(1)});
  engine.start();

  lab::Wire wire;
  lab::AppHost apps(wire);
  apps.set_now(engine::monotonic_ms());
  AppTcp& app = apps.connect();
  app.send(lab::pattern(1, 200'000));
  app.close();
  bool was_answered = false;
  const uint64_t deadline = engine::monotonic_ms() + 20'000;
  while (!(app.is_closed() && proxy.has_eof) && engine::monotonic_ms() < deadline) {
    shuttle(kernel.get(), wire);
    apps.set_now(engine::monotonic_ms());
    apps.deliver();
    proxy.pump();
    if (was_answered || !proxy.request().ends_with("\r\n\r\n")) continue;
    was_answered = true;
    proxy.reply_ok();
    proxy.send(lab::pattern(2, 200'000));
    proxy.finish();
  }
  CHECK_EQ(lab::first_difference(proxy.received, 1), -1);
  CHECK_EQ(lab::first_difference(app.received, 2), -1);
  CHECK_EQ(proxy.received.size() + app.received.size(), 400'000u);

  std::atomic<bool> is_listed = false;
  engine.list_flows(10, [&](std::vector<uint8_t>) { is_listed = true; });
  while (!is_listed) std::this_thread::yield();
  engine.stop();
  engine.stop();
  CHECK_EQ(engine.counters().get(Counter::kActiveFlows), 0u);
}

TEST("a packet for a flow of another queue goes to that queue's mailbox") {
  auto group = std::make_shared<engine::QueueGroup>(2);
  engine::GroupMember first(group, 0), second(group, 1);
  auto hash_of = [&](const wire::FlowKey& k) { return wire::hash_of(group->secret(), k); };
  wire::FlowKey mine = lab::make_key(false, 1, 2), theirs = lab::make_key(false, 3, 4);
  const lab::Bytes packet = {1, 2, 3};
  CHECK(!first.pass_on(hash_of(mine), packet));  // nobody's
  first.claim(hash_of(mine));
  second.claim(hash_of(theirs));
  CHECK(!first.pass_on(hash_of(mine), packet));  // its own
  CHECK(first.pass_on(hash_of(theirs), packet));
  CHECK(first.take().empty());
  auto got = second.take();
  REQUIRE(got.size() == 1);
  CHECK_EQ(got[0], packet);
  CHECK(second.take().empty());
  // A port that was taken over by another queue is not released by the old one.
  first.claim(hash_of(theirs));
  second.release(hash_of(theirs));
  CHECK(second.pass_on(hash_of(theirs), packet));
  CHECK_EQ(first.take().size(), 1u);
  first.release(hash_of(theirs));
  CHECK(!second.pass_on(hash_of(theirs), packet));
}

TEST("a segment of another queue's flow is passed on, not reset") {
  LabOptions options;
  options.group = std::make_shared<engine::QueueGroup>(2);
  CheckedLab lab(options);
  engine::GroupMember other(options.group, 1);
  lab::TcpSegment s;
  s.key = lab::make_key(false, 1234, 80);
  s.flags = lab::kAck;
  s.payload = lab::pattern(0, 10);
  const lab::Bytes packet = lab::encode(s);
  other.claim(wire::hash_of(options.group->secret(), s.key));
  lab.wire.push(packet);
  lab.settle();
  CHECK_EQ(lab.apps.strays.size(), 0u);
  auto got = other.take();
  REQUIRE(got.size() == 1);
  CHECK_EQ(got[0], packet);
}

TEST("of a flow's segments every other may come in by another queue") {
  LabOptions options;
  options.group = std::make_shared<engine::QueueGroup>(2);
  CheckedLab lab(options);
  engine::GroupMember other(options.group, 1);
  auto pair = lab.open();
  REQUIRE(pair);
  const uint64_t hash = wire::hash_of(options.group->secret(), pair.app->key());
  pair.app->send(lab::pattern(1, 60'000));
  bool is_stray = false;
  for (const lab::Bytes& packet : std::exchange(lab.wire.to_engine, {})) {
    if (is_stray) {
      REQUIRE(other.pass_on(hash, packet));
    } else {
      lab.wire.push(packet);
    }
    is_stray = !is_stray;
    lab.engine().step(0, lab.now_ms());
  }
  lab.settle();
  CHECK_EQ(pair.proxy->received.size(), 60'000u);
  CHECK_EQ(lab::first_difference(pair.proxy->received, 1), -1);
  CHECK_EQ(pair.app->retransmissions, 0u);
}

TEST("a mailbox that nobody empties does not grow without end") {
  auto group = std::make_shared<engine::QueueGroup>(2);
  engine::GroupMember first(group, 0), second(group, 1);
  auto hash_of = [&](const wire::FlowKey& k) { return wire::hash_of(group->secret(), k); };
  wire::FlowKey key = lab::make_key(false, 1, 2);
  second.claim(hash_of(key));
  for (int i = 0; i < 10'000; i++) CHECK(first.pass_on(hash_of(key), lab::Bytes(1500)));
  CHECK(second.take().size() <= 256u);
}
