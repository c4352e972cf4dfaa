// Short connections are few engines' business, streams are everybody's: when, and who reads what.
#include "engine/concentration.h"

#include <poll.h>
#include <sys/socket.h>

#include "app_tcp.h"
#include "harness.h"
#include "lab.h"
#include "tun/tun_device.h"

using engine::Concentration;
using engine::Counter;

namespace {

constexpr uint64_t kStartMs = 1'000'000;

// Feeds a judgement with `count` connections of `bytes` each, every 100 ms.
struct Judged {
  Concentration concentration;
  Concentration::Load load;
  uint64_t now_ms = kStartMs;
  bool is_on = false;

  Judged() { concentration.update(now_ms, load); }
  bool after(int64_t count, uint64_t bytes, uint64_t open = 1, uint64_t ms = 100) {
    load.ended += count;
    load.bytes += static_cast<uint64_t>(count) * bytes;
    return judge(open, ms);
  }
  bool judge(uint64_t open, uint64_t ms = 100) {
    load.open = open;
    now_ms += ms;
    if (concentration.is_due(now_ms)) is_on = concentration.update(now_ms, load);
    return is_on;
  }
};

// A dialer whose connections never come about.
class Silence final : public relay::Dialer {
 public:
  int dial(const relay::UpstreamAddress&, bool& in_progress) override {
    in_progress = true;
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) < 0) return -errno;
    // A full socket is not writable, like one that is connecting.
    const std::vector<uint8_t> bytes(1 << 16);
    while (send(pair[0], bytes.data(), bytes.size(), MSG_NOSIGNAL) > 0) continue;
    others_.emplace_back(pair[1]);
    return pair[0];
  }

 private:
  std::vector<base::UniqueFd> others_;
};

// Answered by the engine itself, at once (relay.cc).
constexpr const char* kHealthAddress = "198.18.255.254";
constexpr uint16_t kHealthPort = 7;

// A queue of a device: `kernel` is where its packets are put.
struct Queue {
  base::UniqueFd engine, kernel;
  Queue() {
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) < 0) abort();
    engine.reset(pair[0]);
    kernel.reset(pair[1]);
  }
  void put_syn(uint16_t app_port, const char* address = nullptr) {
    lab::TcpSegment syn;
    syn.key = lab::make_key(false, app_port, address ? kHealthPort : 443);
    if (address) lab::set_address(syn.key.destination, address);
    syn.flags = lab::kSyn;
    syn.window = 64'000;
    syn.options = lab::mss_option(1460);
    const lab::Bytes packet = lab::encode(syn);
    if (send(kernel.get(), packet.data(), packet.size(), 0) < 0) abort();
  }
  // Packets that were written here since the last call.
  int answers() {
    uint8_t buffer[2048];
    int n = 0;
    while (recv(kernel.get(), buffer, sizeof buffer, MSG_DONTWAIT) > 0) n++;
    return n;
  }
};

bool is_readable(int fd) {
  pollfd one{fd, POLLIN, 0};
  return poll(&one, 1, 0) == 1;
}

// One engine of two on two processors, the other's part played by the test.
struct OneOfTwo {
  std::shared_ptr<engine::QueueGroup> group = std::make_shared<engine::QueueGroup>(2, 2);
  Queue own, other, writer;
  std::unique_ptr<engine::Engine> engine;
  uint64_t now_ms = kStartMs;
  engine::Concentration::Load others_load;

  explicit OneOfTwo(uint32_t queue, uint32_t predial = 0) {
    auto options = lab::LabOptions::default_engine_options();
    options.relay.predial = predial;
    auto created = engine::Engine::create(
        std::make_unique<tun::TunDevice>(std::move(own.engine), std::move(writer.engine)),
        std::make_unique<Silence>(), options, [] {}, group, queue);
    if (!created) abort();
    engine = std::move(created.value());
    engine->set_upstreams({lab::upstream_address(1)});
    if (group->share_device(1 - queue, other.engine.get()) != 0) abort();
    step();
  }
  // What the other engine has carried in the last 100 ms.
  void other_carries(uint64_t connections, uint64_t bytes_each) {
    others_load.ended += static_cast<int64_t>(connections);
    others_load.bytes += connections * bytes_each;
  }
  void step() {
    now_ms += 100;
    for (int i = 0; i < 3; i++) engine->step(0, now_ms);
  }
  uint64_t active() const { return engine->counters().get(Counter::kActiveFlows); }
};

}  // namespace

TEST("nothing happened yet: everybody takes connections") {
  Judged judged;
  for (int i = 0; i < 10; i++) CHECK(!judged.judge(0));
}

TEST("short connections in numbers are few engines' business, until they end") {
  Judged judged;
  CHECK(judged.after(300, 1024, 1));
  CHECK(judged.after(1300, 1024, 32));
  CHECK(!judged.judge(0));
}

TEST("a connection now and then says nothing") {
  Judged judged;
  for (int i = 0; i < 20; i++) CHECK(!judged.after(5, 1024));
}

TEST("a stream beside short connections ends it, and so do connections that carry much") {
  Judged judged;
  CHECK(judged.after(100, 1024));
  judged.load.bytes += 50 << 20;
  CHECK(!judged.after(100, 1024));
  CHECK(judged.after(100, 1024));
  CHECK(!judged.after(100, 1 << 20));
}

TEST("connections that are many at once are everybody's") {
  Judged judged;
  CHECK(judged.after(500, 1024, 32));
  CHECK(!judged.after(500, 1024, 33));
}

TEST("it is judged by a whole while, not by a moment of it") {
  Judged judged;
  CHECK(!judged.after(300, 1024, 1, 10));
  CHECK(!judged.after(0, 0, 1, 50));
  CHECK(judged.after(300, 1024, 1, 60));
  CHECK(judged.after(0, 0, 1, 30));          // still that judgement
  CHECK(!judged.after(100, 1024, 1, 5000));  // slow again
}

TEST("after a pause what comes is not judged by what was before it") {
  Judged judged;
  CHECK(judged.after(300, 1024));
  CHECK(!judged.judge(8, 60'000));
}

TEST("fewer ended than before is no number of connections") {
  Judged judged;
  judged.load.ended = -5;
  CHECK(!judged.judge(5));
  CHECK(!judged.after(3, 1024));
}

TEST("the first engine reads the others' queues while connections are short, and only then") {
  OneOfTwo lab(0);
  lab.other.put_syn(1);
  lab.step();
  CHECK_EQ(lab.active(), 0u);  // the other's business

  lab.other_carries(100, 1000);
  lab.group->publish(1, lab.others_load);
  lab.step();
  CHECK(lab.group->is_concentrated());
  CHECK_EQ(lab.active(), 1u);
  lab.own.put_syn(2);
  lab.other.put_syn(3);
  lab.other_carries(100, 1000);
  lab.group->publish(1, lab.others_load);
  lab.step();
  CHECK_EQ(lab.active(), 3u);

  lab.other_carries(100, 1 << 20);
  lab.group->publish(1, lab.others_load);
  lab.step();
  CHECK(!lab.group->is_concentrated());
  lab.other.put_syn(4);
  lab.own.put_syn(5);
  lab.step();
  CHECK_EQ(lab.active(), 4u);
}

TEST("what came in where it belongs is answered past the kernel's table, what did not, is not") {
  OneOfTwo lab(0);
  lab.own.put_syn(1, kHealthAddress);
  lab.step();
  CHECK(lab.writer.answers() > 0);
  CHECK_EQ(lab.own.answers(), 0);

  lab.other_carries(100, 1000);
  lab.group->publish(1, lab.others_load);
  lab.other.put_syn(2, kHealthAddress);
  lab.step();
  CHECK(lab.own.answers() > 0);
  lab.writer.answers();

  // Mail from another queue: an acknowledgement of what the first connection has never sent.
  lab::TcpSegment again;
  again.key = lab::make_key(false, 1, kHealthPort);
  lab::set_address(again.key.destination, kHealthAddress);
  again.seq = 1;
  again.ack = 0x12345678;
  again.flags = lab::kAck;
  engine::GroupMember other(lab.group, 1);
  uint64_t hash = wire::hash_of(lab.group->secret(), again.key);
  REQUIRE(other.pass_on(hash, lab::encode(again)));
  lab.step();
  lab.step();
  CHECK(lab.own.answers() > 0);
  CHECK_EQ(lab.writer.answers(), 0);
}

TEST("an engine whose queue another reads sleeps, is woken when that ends, and loses nothing") {
  OneOfTwo lab(1);
  auto judge = [&](int64_t ended) {
    lab.others_load.ended += ended;
    lab.group->publish(0, lab.others_load);
    lab.now_ms += 100;
    lab.group->judge(lab.now_ms);
  };
  judge(0);
  lab.own.put_syn(1);
  lab.engine->step(0, lab.now_ms);
  CHECK_EQ(lab.active(), 1u);

  judge(100);
  CHECK(lab.group->is_concentrated());
  CHECK(is_readable(lab.group->event_fd(1)));
  lab.engine->step(0, lab.now_ms);
  CHECK(!is_readable(lab.group->event_fd(1)));
  lab.own.put_syn(2);
  lab.engine->step(0, lab.now_ms);
  CHECK_EQ(lab.active(), 1u);

  judge(0);
  CHECK(!lab.group->is_concentrated());
  CHECK(is_readable(lab.group->event_fd(1)));  // else it would sleep on
  lab.engine->step(0, lab.now_ms);
  lab.engine->step(0, lab.now_ms);
  CHECK_EQ(lab.active(), 2u);
}

TEST("with connections that are open before they are needed, which every engine has, all go on") {
  OneOfTwo lab(0, 2);
  lab.other.put_syn(1);
  lab.other_carries(100, 1000);
  lab.group->publish(1, lab.others_load);
  lab.step();
  CHECK(!lab.group->is_concentrated());
  CHECK_EQ(lab.active(), 0u);
}

TEST("where there is a processor for each engine beside client and proxy, all take connections") {
  engine::QueueGroup group(2, 4);
  group.publish(0, {.ended = 0, .bytes = 0, .open = 0});
  group.judge(kStartMs);
  group.publish(0, {.ended = 1000, .bytes = 1000, .open = 1});
  group.judge(kStartMs + 100);
  CHECK(!group.is_concentrated());
}

TEST("half of the processors' engines read for the others, and on one processor the first") {
  engine::QueueGroup four(4, 4), one(3, 1);
  for (uint32_t queue = 0; queue < 4; queue++) CHECK_EQ(four.reader_of(queue), queue % 2);
  for (uint32_t queue = 0; queue < 3; queue++) CHECK_EQ(one.reader_of(queue), 0u);
}
