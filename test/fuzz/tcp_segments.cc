// Fuzzes sequences: segments of live connections and others, what the proxy sends and when, and
// time, all decoded from the input. A connection that only behaved must have its bytes in order.
#include <array>
#include <cerrno>
#include <utility>

#include "fixed_random.h"
#include "input.h"
#include "lab.h"

namespace {

constexpr size_t kSlots = 4;
constexpr size_t kMostOps = 300;  // an input that goes on for ever is only slow
constexpr size_t kMostBytes = 1 << 20;
constexpr uint64_t kTickMs = 50;
constexpr uint64_t kUnderflow = 1ull << 40;

struct Slot {
  lab::AppTcp* app = nullptr;
  lab::ProxyEnd* proxy = nullptr;
  bool is_honest = true;     // nothing but what a kernel and a proxy do
  bool is_answered = false;  // with 200
  uint64_t app_bytes = 0;    // sent by the app
  uint64_t reply_bytes = 0;  // of the head
  uint64_t proxy_bytes = 0;  // sent by the proxy behind the head
  uint32_t seed = 0;
};

class Scenario {
 public:
  explicit Scenario(fuzz::Input input) : input_(input), lab_(options(input_)) {}

  void run() {
    for (size_t i = 0; i < kMostOps && !input_.is_empty(); i++) {
      op();
      lab_.settle();
      examine();
    }
    for (Slot& slot : slots_) judge(slot);
    lab_.destroy_engine();
  }

 private:
  static lab::LabOptions options(fuzz::Input& input) {
    lab::LabOptions o;
    o.engine.relay.is_app_here = [](const wire::FlowKey&) { return true; };  // large packets
    uint8_t bits = input.u8();
    o.engine.relay.early_accept = bits & 1;
    o.engine.relay.sniffs = (bits & 9) == 9;
    o.engine.relay.predial = bits & 2 ? 2 : 0;
    if (bits & 4) o.engine.driver.windows.sum = 64 * 1024;
    if (bits & 8) o.engine.relay.send_limit = 64 * 1024;
    if (bits & 16) o.engine.relay.idle_timeout_ms = 5000;
    if (bits & 32) o.engine.relay.max_flows = 2;
    if (bits & 64) o.engine.faults = {.drop_one_in = 8, .duplicate_one_in = 8, .delay_one_in = 8};
    if (bits & 128) o.dial = lab::Dial::kLater;
    return o;
  }

  void op() {
    uint8_t what = input_.u8();
    Slot& slot = slots_[what % kSlots];
    switch (what / kSlots % 20) {
      case 0: connect(slot); break;
      case 1: answer(slot); break;
      case 2: proxy_raw(slot); break;
      case 3: proxy_send(slot, input_.u8()); break;
      case 4: proxy_send(slot, size_t{input_.u16()} * 4); break;
      case 5:
        if (slot.proxy) slot.proxy->finish();
        break;
      case 6:
        if (slot.proxy) slot.proxy->close();
        break;
      case 7:
        if (slot.proxy) slot.proxy->set_reading(input_.u8() & 1);
        break;
      case 8: app_send(slot, input_.u8()); break;
      case 9: app_send(slot, input_.u16()); break;
      case 10:
        if (slot.app) slot.app->close();
        break;
      case 11:
        if (slot.app) slot.app->reset();
        break;
      case 12:
        if (slot.app) slot.app->set_reading(input_.u8() & 1);
        break;
      case 13: segment(slot); break;
      case 14: stranger(); break;
      case 15: wait(input_.u8()); break;
      case 16: lab_.skip(uint64_t{input_.u8()} * 1000); break;
      case 17: disturb(slot); break;
      case 18: lab_.engine().set_upstreams(upstreams(input_.u8() % 4)); break;
      case 19:
        for (auto& end : lab_.proxy.ends) end->establish();
        break;
    }
    if (slot.app && !slot.proxy) slot.proxy = lab_.proxy_of(*slot.app);
  }

  void connect(Slot& slot) {
    if (lab_.apps.all().size() > 40) return;
    uint8_t bits = input_.u8();
    lab::AppOptions o;
    o.is_v6 = bits & 1;
    if (bits & 2) o.mss = std::nullopt;
    if (bits & 4) o.window_scale = std::nullopt;
    if (bits & 8) o.window = 1 + input_.u16();
    if (bits & 16) o.segment_bytes = 60'000;
    if (bits & 32) o.offloads_checksum = false;
    if (bits & 64) o.delays_ack = true;
    // The same port again, or one of its own; each destination port belongs to one slot.
    auto index = static_cast<uint16_t>(&slot - slots_.data());
    if (bits & 128) o.port = static_cast<uint16_t>(5000 + index);
    o.destination_port = static_cast<uint16_t>(++destination_port_);
    o.initial_seq = 0xfffffc00 + destination_port_ * 99'991;
    judge(slot);
    if ((bits & 128) && slot.app) slot.app->set_silent(true);
    slot = Slot{};
    slot.seed = destination_port_;
    slot.app = &lab_.apps.connect(o);
  }

  void answer(Slot& slot) {
    if (!slot.proxy || slot.is_answered) return;
    constexpr std::string_view kHead = "HTTP/1.1 200 OK\r\n\r\n";
    slot.is_answered = true;
    slot.reply_bytes = kHead.size();
    slot.proxy->send(kHead);
  }

  void proxy_raw(Slot& slot) {
    if (!slot.proxy) return;
    slot.is_honest = false;
    slot.proxy->send(input_.take(input_.u8()));
  }

  void proxy_send(Slot& slot, size_t bytes) {
    if (!slot.proxy || !slot.is_answered || slot.proxy_bytes + bytes > kMostBytes) return;
    slot.proxy->send(lab::pattern(slot.seed, bytes, slot.proxy_bytes));
    slot.proxy_bytes += bytes;
  }

  void app_send(Slot& slot, size_t bytes) {
    if (!slot.app || slot.app_bytes + bytes > kMostBytes) return;
    slot.app->send(lab::pattern(slot.seed + 1000, bytes, slot.app_bytes));
    slot.app_bytes += bytes;
  }

  void wait(uint64_t ms) {
    for (uint64_t step; ms > 0; ms -= step) lab_.skip(step = std::min<uint64_t>(ms, kTickMs));
  }

  // Any segment of a connection, its numbers near the true ones.
  void segment(Slot& slot) {
    if (!slot.app) return;
    slot.is_honest = false;
    lab::TcpSegment s;
    s.key = slot.app->key();
    s.flags = input_.u8();
    s.seq = slot.app->snd_nxt() + offset();
    s.ack = slot.app->rcv_nxt() + offset();
    s.window = input_.u16();
    uint8_t shape = input_.u8();
    auto options = input_.take(shape % 11u * 4);
    s.options.assign(options.begin(), options.end());
    s.payload = lab::pattern(slot.seed, shape & 128 ? input_.u16() : shape / 11);
    lab_.wire.push(encode(s, !(shape & 64)));
  }

  uint32_t offset() {
    uint8_t how = input_.u8();
    if (how < 200) return static_cast<uint32_t>(static_cast<int8_t>(how));
    return how < 240 ? static_cast<uint32_t>(static_cast<int16_t>(input_.u16())) : input_.u32();
  }

  // A segment of no connection, or whole nonsense.
  void stranger() {
    uint8_t bits = input_.u8();
    if (bits & 1) {
      auto raw = input_.take(input_.u8());
      lab_.wire.push({raw.begin(), raw.end()});
      return;
    }
    if (lab_.stack().size() > 60) return;
    lab::TcpSegment s;
    s.key = lab::make_key(bits & 2, 9, static_cast<uint16_t>(1 + input_.u8() % 3));
    s.flags = input_.u8();
    s.seq = input_.u32();
    s.ack = input_.u32();
    s.payload = lab::pattern(0, bits / 4);
    lab_.wire.push(encode(s));
  }

  // What devices and networks do.
  void disturb(Slot& slot) {
    uint8_t how = input_.u8();
    switch (how % 5) {
      case 0:
        lab_.wire.write_error = EAGAIN;
        lab_.wire.refused_writes = how / 5;
        break;
      case 1:
        if (slot.app) slot.app->set_silent(how & 128);
        break;
      case 2:
        lab_.apps.duplicate_one_in = how / 5 % 8;
        lab_.apps.swap_one_in = how / 40;
        break;
      case 3:
        lab_.proxy.how = how & 128 ? lab::Dial::kError : lab::Dial::kPair;
        lab_.proxy.next_error = how & 64 ? EMFILE : ECONNREFUSED;
        break;
      case 4: lab_.proxy.engine_send_buffer = how & 128 ? 1 : 0; break;
    }
  }

  static std::vector<relay::UpstreamAddress> upstreams(uint16_t count) {
    std::vector<relay::UpstreamAddress> out;
    for (uint16_t i = 0; i < count; i++) out.push_back(lab::upstream_address(i));
    return out;
  }

  void examine() {
    fuzz::insist(lab_.apps.broken_packets == 0, "every packet of ours is sound");
    fuzz::insist(lab_.stats().active < 200, "flows are counted down");
    fuzz::insist(lab_.stats().pending < 200, "pending flows are counted down");
    fuzz::insist(lab_.driver().promised_bytes() < kUnderflow, "windows are given back once");
    fuzz::insist(lab_.driver().receive_buffer_bytes() < kUnderflow, "buffers are freed once");
    fuzz::insist(lab_.engine().relay_for_tests().queued_bytes() < kUnderflow,
                 "what is acknowledged was queued");
  }

  // Of a connection on which nobody lied: nothing is lost, doubled or out of place.
  void judge(const Slot& slot) {
    if (!slot.app || !slot.proxy || !slot.is_honest) return;
    const lab::AppTcp& app = *slot.app;
    fuzz::insist(lab::first_difference(app.received, slot.seed) < 0, "the app's bytes are right");
    fuzz::insist(lab::first_difference(slot.proxy->received, slot.seed + 1000) < 0,
                 "the proxy's bytes are right");
    if (app.has_eof && slot.is_answered) {
      fuzz::insist(app.received.size() + slot.reply_bytes == slot.proxy->sent_bytes,
                   "an end means that all was there");
    }
  }

  fuzz::Input input_;
  lab::Lab lab_;
  std::array<Slot, kSlots> slots_;
  uint32_t destination_port_ = 100;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  base::fixed_random_state = 1;
  Scenario(fuzz::Input({data, size})).run();
  return 0;
}
