// A SYN is held until the proxy has answered, and connect() then hears the truth.
#include <cerrno>

#include "checked_lab.h"

using engine::Counter;
using lab::AppTcp;
using lab::CheckedLab;
using lab::Dial;
using lab::LabOptions;
using lab::ProxyEnd;
using relay::EventKind;

namespace {

constexpr bool kBothFamilies[] = {false, true};

// The SYN has gone to the proxy. null when it has not.
ProxyEnd* ask(CheckedLab& lab, AppTcp& app) {
  return lab.until([&] { return lab.proxy_of(app) != nullptr; }) ? lab.proxy_of(app) : nullptr;
}

const lab::EventRecord* find(const std::vector<lab::EventRecord>& events, EventKind kind) {
  for (const auto& e : events)
    if (e.kind == kind) return &e;
  return nullptr;
}

}  // namespace

TEST("a SYN gets no answer before the proxy's") {
  for (bool is_v6 : kBothFamilies) {
    CheckedLab lab;
    AppTcp& app = lab.apps.connect({.is_v6 = is_v6});
    REQUIRE(ask(lab, app));
    lab.advance(20'000);
    CHECK_EQ(app.packets_received, 0u);
    CHECK(app.retransmissions > 2);
    CHECK_EQ(lab.proxy.ends.size(), 1u);  // repeated SYNs are one flow
    CHECK_EQ(lab.counter(Counter::kPendingFlows), 1u);
    CHECK_EQ(lab.counter(Counter::kActiveFlows), 1u);
  }
}

TEST("the proxy is asked for the very address and port of the SYN") {
  CheckedLab lab;
  AppTcp& v4 = lab.apps.connect({.destination_port = 80});
  AppTcp& v6 = lab.apps.connect({.is_v6 = true, .destination_port = 65535});
  REQUIRE(ask(lab, v4) && ask(lab, v6));
  CHECK_EQ(lab.proxy_of(v4)->request(),
           std::string("CONNECT 203.0.113.5:80 HTTP/1.1\r\nHost: 203.0.113.5:80\r\n\r\n"));
  CHECK_EQ(lab.proxy_of(v6)->authority(), std::string("[2001:db8:7::5]:65535"));
}

TEST("any 2xx becomes a SYN-ACK") {
  for (const char* status : {"200 OK", "201 Created", "204", "299 Odd"}) {
    CheckedLab lab;
    AppTcp& app = lab.apps.connect();
    REQUIRE(ask(lab, app));
    lab.proxy_of(app)->send(std::string("HTTP/1.1 ") + status + "\r\n\r\n");
    CHECK(lab.until([&] { return app.is_connected; }, 100));
    CHECK_EQ(lab.counter(Counter::kOpenedFlows), 1u);
    CHECK_EQ(lab.counter(Counter::kPendingFlows), 0u);
  }
}

TEST("a reply a byte at a time, with an interim head before it, opens; what follows is the app's") {
  CheckedLab lab;
  AppTcp& app = lab.apps.connect();
  REQUIRE(ask(lab, app));
  std::string reply =
      "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\nbanner";
  for (char c : reply) {
    lab.proxy_of(app)->send(std::string_view(&c, 1));
    lab.settle();
  }
  CHECK(lab.until([&] { return app.received_text() == "banner"; }, 1000));
}

TEST("bytes in one piece with the reply are the app's first") {
  for (size_t bytes : {size_t{1}, size_t{1460}, size_t{4000}, size_t{100'000}}) {
    CheckedLab lab;
    AppTcp& app = lab.apps.connect();
    REQUIRE(ask(lab, app));
    lab::Bytes head{'H', 'T', 'T', 'P', '/', '1', '.', '1', ' ', '2', '0', '0', '\n', '\n'};
    lab.proxy_of(app)->send(lab::joined({head, lab::pattern(5, bytes)}));
    CHECK(lab.until([&] { return app.received.size() == bytes; }, 2000));
    CHECK_EQ(lab::first_difference(app.received, 5), -1);
    CHECK_EQ(lab.counter(Counter::kBytesToApp), bytes);
  }
}

TEST("a refusal becomes a RST that a kernel in SYN-SENT believes") {
  for (bool is_v6 : kBothFamilies) {
    for (const char* status : {"403 Forbidden", "407 Auth", "502 Bad", "503 No", "301 Moved"}) {
      CheckedLab lab;
      AppTcp& app = lab.apps.connect({.is_v6 = is_v6});
      REQUIRE(ask(lab, app));
      lab.proxy_of(app)->send(std::string("HTTP/1.1 ") + status + "\r\nVia: x\r\n\r\nbody");
      REQUIRE(lab.until([&] { return app.was_refused; }, 100));
      CHECK_EQ(app.last.flags, lab::kRst | lab::kAck);
      CHECK_EQ(app.last.ack, app.initial_seq() + 1);
      CHECK_EQ(app.packets_received, 1u);
      CHECK_EQ(lab.counter(Counter::kRefusedFlows), 1u);
      CHECK_EQ(lab.counter(Counter::kActiveFlows), 0u);
      CHECK(!lab.proxy_of(app)->has_eof || lab.proxy_of(app)->error == 0);
    }
  }
}

TEST("a refusal is told with status and head, and nothing of the body") {
  CheckedLab lab;
  AppTcp& app = lab.apps.connect({.destination_port = 5432});
  REQUIRE(ask(lab, app));
  lab.advance(250);
  lab.proxy_of(app)->send("HTTP/1.1 403 Forbidden\r\nX: y\r\n\r\n<html>");
  REQUIRE(lab.until([&] { return app.was_refused; }, 100));
  auto events = lab.events();
  const auto* e = find(events, EventKind::kRefused);
  REQUIRE(e);
  CHECK_EQ(e->status, 403);
  CHECK_EQ(e->family, 4);
  CHECK_EQ(e->destination_port, 5432);
  CHECK_EQ(e->text, std::string("HTTP/1.1 403 Forbidden\r\nX: y\r\n\r\n"));
  CHECK(e->duration_ms >= 250 && e->duration_ms < 400);
}

TEST("504 says that the destination did not answer: host unreachable") {
  CheckedLab lab;
  AppTcp& app = lab.apps.connect();
  REQUIRE(ask(lab, app));
  lab.proxy_of(app)->send("HTTP/1.1 504 Gateway Timeout\r\n\r\n");
  REQUIRE(lab.until([&] { return app.is_unreachable; }, 100));
  CHECK_EQ(app.icmp_type, 3);
  CHECK_EQ(app.icmp_code, 1);
}

TEST("an answer that is not HTTP, or none, becomes a RST and is counted as failed") {
  const std::string endless = "HTTP/1.1 200 OK\r\n" + std::string(70'000, 'x');
  for (const std::string& answer : {std::string("SSH-2.0-x\r\n"), std::string(), endless}) {
    CheckedLab lab;
    AppTcp& app = lab.apps.connect();
    REQUIRE(ask(lab, app));
    lab.proxy_of(app)->send(answer);
    lab.proxy_of(app)->finish();
    REQUIRE(lab.until([&] { return app.was_refused; }, 100));
    CHECK_EQ(lab.counter(Counter::kFailedFlows), 1u);
    auto events = lab.events();
    REQUIRE(find(events, EventKind::kFailed));
    CHECK(find(events, EventKind::kFailed)->error != 0);
  }
}

TEST("a proxy that resets instead of answering becomes a RST") {
  CheckedLab lab({.dial = Dial::kTcp});
  AppTcp& app = lab.apps.connect();
  REQUIRE(ask(lab, app));
  lab.proxy_of(app)->reset();
  CHECK(lab.until([&] { return app.was_refused; }, 2000));
}

TEST("a proxy that cannot be dialled becomes network unreachable") {
  for (bool is_v6 : kBothFamilies) {
    for (int error : {ECONNREFUSED, ENETUNREACH, EACCES, EADDRNOTAVAIL}) {
      CheckedLab lab({.dial = Dial::kError});
      lab.proxy.next_error = error;
      AppTcp& app = lab.apps.connect({.is_v6 = is_v6});
      REQUIRE(lab.until([&] { return app.is_unreachable; }, 100));
      CHECK_EQ(app.icmp_type, is_v6 ? 1 : 3);
      CHECK_EQ(app.icmp_code, 0);
      auto events = lab.events();
      REQUIRE(find(events, EventKind::kFailed));
      CHECK_EQ(find(events, EventKind::kFailed)->error, error);
      CHECK_EQ(lab.counter(Counter::kFailedFlows), 1u);
    }
  }
}

TEST("a proxy that is gone before the request fails the flow, not the engine") {
  CheckedLab lab({.dial = Dial::kGone});
  AppTcp& app = lab.apps.connect();
  CHECK(lab.until([&] { return app.is_unreachable; }, 100));
  auto events = lab.events();
  REQUIRE(find(events, EventKind::kFailed));
  CHECK_EQ(find(events, EventKind::kFailed)->error, EPIPE);
}

TEST("a proxy whose host is unreachable becomes host unreachable") {
  for (bool is_v6 : kBothFamilies) {
    CheckedLab lab({.dial = Dial::kError});
    lab.proxy.next_error = EHOSTUNREACH;
    AppTcp& app = lab.apps.connect({.is_v6 = is_v6});
    REQUIRE(lab.until([&] { return app.is_unreachable; }, 100));
    CHECK_EQ(app.icmp_code, is_v6 ? 3 : 1);
  }
}

TEST("no upstream address at all fails the flow, not the engine") {
  CheckedLab lab;
  lab.engine().set_upstreams({});
  AppTcp& app = lab.apps.connect();
  CHECK(lab.until([&] { return app.is_unreachable; }, 100));
}

TEST("upstream addresses that vanish during a dial fail the flow, not the engine") {
  CheckedLab lab({.dial = Dial::kLater});
  AppTcp& app = lab.apps.connect();
  lab.settle();
  REQUIRE(lab.proxy.ends.size() == 1);
  lab.engine().set_upstreams({});
  lab.settle();
  lab.proxy.ends[0]->close();
  CHECK(lab.until([&] { return app.is_over(); }, 100));
}

TEST("the next address of the proxy is tried when one fails, and remembered when it answers") {
  CheckedLab lab;
  lab.engine().set_upstreams(
      {lab::upstream_address(1), lab::upstream_address(2), lab::upstream_address(3)});
  lab.proxy.failing_ports = {1, 2};
  lab.proxy.next_error = ECONNREFUSED;
  REQUIRE(lab.open());
  CHECK_EQ(lab.proxy.dials, 3u);
  CHECK_EQ(lab.proxy.ends.back()->dialled_address, 3u);
  REQUIRE(lab.open());
  CHECK_EQ(lab.proxy.dials, 4u);
  CHECK_EQ(lab.counter(Counter::kFailedFlows), 0u);
}

TEST("an address that fails late, after connecting had begun, is passed over too") {
  CheckedLab lab({.dial = Dial::kLater});
  lab.engine().set_upstreams({lab::upstream_address(1), lab::upstream_address(2)});
  AppTcp& app = lab.apps.connect();
  lab.settle();
  REQUIRE(lab.proxy.ends.size() == 1);
  lab.proxy.how = Dial::kPair;
  lab.proxy.ends[0]->close();
  REQUIRE(lab.until([&] { return lab.proxy.ends.size() == 2; }, 100));
  CHECK_EQ(lab.proxy.ends[1]->dialled_address, 2u);
  REQUIRE(ask(lab, app));
  lab.proxy_of(app)->reply_ok();
  CHECK(lab.until([&] { return app.is_connected; }, 100));
}

TEST("a connection that takes its time is asked once it is made") {
  CheckedLab lab({.dial = Dial::kLater});
  AppTcp& app = lab.apps.connect();
  lab.advance(5000);
  REQUIRE(lab.proxy.ends.size() == 1);
  CHECK(lab.proxy.ends[0]->request().empty());
  lab.proxy.ends[0]->establish();
  REQUIRE(ask(lab, app));
  lab.proxy_of(app)->reply_ok();
  CHECK(lab.until([&] { return app.is_connected; }, 100));
}

TEST("without descriptors left a connection is refused at once, and said so once a second") {
  for (int error : {EMFILE, ENFILE}) {
    CheckedLab lab({.dial = Dial::kError});
    lab.proxy.next_error = error;
    for (int i = 0; i < 10; i++) lab.apps.connect();
    REQUIRE(lab.until(
        [&] {
          for (const auto& app : lab.apps.all())
            if (!app->was_refused) return false;
          return true;
        },
        100));
    auto events = lab.events();
    REQUIRE(events.size() == 1);
    CHECK(events[0].kind == EventKind::kNotice);
    CHECK_EQ(lab.counter(Counter::kOverLimitFlows), 10u);
    lab.advance(1500);
    lab.apps.connect();
    lab.settle();
    events = lab.events();
    REQUIRE(find(events, EventKind::kNotice));
    CHECK_EQ(find(events, EventKind::kNotice)->left_out, 9u);
    lab.proxy.how = Dial::kPair;
    CHECK(lab.open());  // and once there are some, as ever
  }
}

TEST("the time-out for an answer is kept to the second, and becomes host unreachable") {
  for (bool is_v6 : kBothFamilies) {
    CheckedLab lab;
    AppTcp& app = lab.apps.connect({.is_v6 = is_v6});
    REQUIRE(ask(lab, app));
    lab.advance(29'900);
    CHECK(!app.is_over());
    lab.advance(1200);
    CHECK(app.is_unreachable);
    CHECK_EQ(app.icmp_code, is_v6 ? 3 : 1);
    CHECK_EQ(lab.counter(Counter::kFailedFlows), 1u);
    lab.settle();
    CHECK(lab.proxy.ends[0]->has_eof || lab.proxy.ends[0]->error);
  }
}

TEST("the time-out runs over connecting and answering together") {
  LabOptions options{.dial = Dial::kLater};
  options.engine.relay.connect_timeout_ms = 10'000;
  CheckedLab lab(options);
  AppTcp& app = lab.apps.connect();
  lab.advance(6000);
  REQUIRE(lab.proxy.ends.size() == 1);
  lab.proxy.ends[0]->establish();
  REQUIRE(ask(lab, app));
  lab.proxy_of(app)->send("HTTP/1.1 200");
  lab.advance(3900);
  CHECK(!app.is_over());
  lab.advance(1300);
  CHECK(app.is_unreachable);
}

TEST("a RST while held takes the attempt back") {
  CheckedLab lab;
  AppTcp& app = lab.apps.connect();
  REQUIRE(ask(lab, app));
  app.inject(lab::kRst, app.initial_seq() + 1, 0);
  CHECK(lab.until([&] { return lab.counter(Counter::kActiveFlows) == 0; }, 100));
  CHECK(lab.until([&] { return lab.proxy.ends[0]->has_eof || lab.proxy.ends[0]->error; }, 100));
  CHECK_EQ(app.packets_received, 0u);
  CHECK_EQ(lab.counter(Counter::kPendingFlows), 0u);
}

TEST("a RST with another number, while held, does not") {
  CheckedLab lab;
  AppTcp& app = lab.apps.connect();
  REQUIRE(ask(lab, app));
  for (uint32_t offset : {0u, 2u, 1000u, 0x80000000u}) {
    app.inject(lab::kRst, app.initial_seq() + offset, 0);
    lab.settle();
  }
  CHECK_EQ(lab.counter(Counter::kActiveFlows), 1u);
  lab.proxy_of(app)->reply_ok();
  CHECK(lab.until([&] { return app.is_connected; }, 100));
}

TEST("segments other than SYN and RST, while held, change nothing") {
  CheckedLab lab;
  AppTcp& app = lab.apps.connect();
  REQUIRE(ask(lab, app));
  for (int flags : std::initializer_list<int>{0x10, 0x11, 0x01, 0x12, 0}) {  // ACK, FIN, SYN-ACK
    app.inject(static_cast<uint8_t>(flags), app.initial_seq() + 1, 1, lab::pattern(0, 10));
    lab.settle();
  }
  CHECK_EQ(app.packets_received, 0u);
  lab.proxy_of(app)->reply_ok();
  CHECK(lab.until([&] { return app.is_connected; }, 100));
}

TEST("a new attempt from the same port replaces the held one") {
  CheckedLab lab;
  AppTcp& first = lab.apps.connect({.port = 5555, .initial_seq = 1000});
  REQUIRE(ask(lab, first));
  first.set_silent(true);
  AppTcp& second = lab.apps.connect({.port = 5555, .initial_seq = 777'000});
  REQUIRE(lab.until(
      [&] { return lab.proxy.ends.size() == 2 && !lab.proxy.ends[1]->request().empty(); }, 100));
  CHECK(lab.proxy.ends[0]->has_eof || lab.proxy.ends[0]->error);
  lab.proxy.ends[1]->reply_ok();
  CHECK(lab.until([&] { return second.is_connected; }, 100));
  CHECK_EQ(lab.counter(Counter::kActiveFlows), 1u);
  CHECK_EQ(second.syn_ack.ack, 777'001u);
}

TEST("a SYN with data opens as one without: the data is sent again") {
  CheckedLab lab;
  AppTcp& app = lab.apps.prepare({});
  app.inject(lab::kSyn, app.initial_seq(), 0, lab::pattern(0, 100), uint16_t{65535});
  REQUIRE(ask(lab, app));
  lab.proxy_of(app)->reply_ok();
  REQUIRE(lab.until([&] { return app.is_connected; }, 100));
  CHECK_EQ(app.syn_ack.ack, app.initial_seq() + 1);
}

TEST("more SYNs at a time than max_pending are passed over, and served when repeated") {
  LabOptions options;
  options.engine.relay.max_pending = 50;
  CheckedLab lab(options);
  for (int i = 0; i < 60; i++) lab.apps.connect({.window = 65535});
  lab.settle();
  CHECK_EQ(lab.proxy.ends.size(), 50u);
  CHECK_EQ(lab.counter(Counter::kPendingFlows), 50u);
  CHECK_EQ(lab.counter(Counter::kOverLimitFlows), 10u);
  for (auto& end : lab.proxy.ends) end->reply_ok();
  REQUIRE(lab.until([&] { return lab.proxy.ends.size() == 60; }, 3000));
  for (size_t i = 50; i < 60; i++) lab.proxy.ends[i]->reply_ok();
  CHECK(lab.until([&] { return lab.counter(Counter::kOpenedFlows) == 60; }, 100));
}

TEST("a flood of SYNs that nobody answers leaves room for others after the time-out") {
  LabOptions options;
  options.engine.relay.max_pending = 200;
  options.engine.relay.connect_timeout_ms = 2000;
  CheckedLab lab(options);
  for (uint16_t port = 1; port <= 1000; port++) {
    lab::TcpSegment syn;
    syn.key = lab::make_key(false, port, 9);
    syn.flags = lab::kSyn;
    lab.wire.push(encode(syn));
  }
  lab.settle();
  CHECK_EQ(lab.stack().size(), 200u);
  CHECK_EQ(lab.counter(Counter::kOverLimitFlows), 800u);
  lab.advance(3500);
  CHECK_EQ(lab.stack().size(), 0u);
  CHECK(lab.open());
}

TEST("above max_flows a connection is refused by RST, below it is served") {
  LabOptions options;
  options.engine.relay.max_flows = 10;
  CheckedLab lab(options);
  std::vector<lab::Lab::Pair> pairs;
  for (int i = 0; i < 10; i++) pairs.push_back(lab.open());
  AppTcp& app = lab.apps.connect();
  REQUIRE(lab.until([&] { return app.was_refused; }, 100));
  CHECK_EQ(lab.counter(Counter::kActiveFlows), 10u);
  auto events = lab.events();
  CHECK(find(events, EventKind::kNotice) != nullptr);
  REQUIRE(pairs[0]);
  pairs[0].app->reset();
  REQUIRE(lab.until([&] { return lab.counter(Counter::kActiveFlows) == 9; }, 100));
  CHECK(lab.open());
}

TEST("a connection in TIME_WAIT takes no other's place") {
  LabOptions options;
  options.engine.relay.max_flows = 1;
  CheckedLab lab(options);
  auto pair = lab.open();
  REQUIRE(pair);
  pair.proxy->finish();  // the origin closes first, so TIME_WAIT is ours
  REQUIRE(lab.until([&] { return pair.app->has_eof; }, 100));
  pair.app->close();
  REQUIRE(lab.until([&] { return pair.app->is_closed(); }, 100));
  CHECK_EQ(lab.stack().size(), 1u);
  CHECK(lab.open());
}

TEST("early accept opens before the proxy has answered, and a refusal is a RST afterwards") {
  LabOptions options;
  options.engine.relay.early_accept = true;
  CheckedLab lab(options);
  AppTcp& app = lab.apps.connect();
  REQUIRE(lab.until([&] { return app.is_connected; }, 100));
  REQUIRE(ask(lab, app));
  CHECK_EQ(lab.counter(Counter::kOpenedFlows), 0u);
  lab.proxy_of(app)->send("HTTP/1.1 403 No\r\n\r\n");
  CHECK(lab.until([&] { return app.was_reset; }, 100));
  CHECK_EQ(lab.counter(Counter::kRefusedFlows), 1u);
}

TEST("early accept keeps what the app sends until the proxy takes it") {
  LabOptions options{.dial = Dial::kLater};
  options.engine.relay.early_accept = true;
  CheckedLab lab(options);
  AppTcp& app = lab.apps.connect();
  lab::Bytes data = lab::pattern(3, 150'000);
  app.send(data);
  app.close();
  lab.advance(3000);
  CHECK(app.unacked_bytes() >= 150'000u - 65'536u);  // no more than the first window was taken
  lab.proxy.ends[0]->establish();
  REQUIRE(ask(lab, app));
  lab.advance(1000);
  CHECK(lab.proxy_of(app)->received.empty());
  lab.proxy_of(app)->reply_ok();
  REQUIRE(lab.until([&] { return lab.proxy_of(app)->has_eof; }, 5000));
  CHECK(lab.proxy_of(app)->received == data);
}

TEST("early accept: an app that resets while the proxy is dialled takes the attempt back") {
  LabOptions options{.dial = Dial::kLater};
  options.engine.relay.early_accept = true;
  CheckedLab lab(options);
  AppTcp& app = lab.apps.connect();
  REQUIRE(lab.until([&] { return app.is_connected; }, 100));
  app.reset();
  CHECK(lab.until([&] { return lab.counter(Counter::kActiveFlows) == 0; }, 100));
}

TEST("early accept: the time-out for an answer is a RST") {
  LabOptions options;
  options.engine.relay.early_accept = true;
  CheckedLab lab(options);
  AppTcp& app = lab.apps.connect();
  REQUIRE(lab.until([&] { return app.is_connected; }, 100));
  CHECK(lab.until([&] { return app.was_reset; }, 32'000));
  CHECK_EQ(lab.counter(Counter::kFailedFlows), 1u);
}

TEST("the tunnel's own health address answers without the proxy, in both families") {
  for (bool is_v6 : kBothFamilies) {
    CheckedLab lab;
    lab::TcpSegment syn;
    syn.key = lab::make_key(is_v6, 7777, 7);
    static constexpr uint8_t kV4[4] = {198, 18, 255, 254};
    static constexpr uint8_t kV6[16] = {0xfd, 0x70, 0x76, 0x70, 0x6e, 0, 0,    0,
                                        0,    0,    0,    0,    0,    0, 0xff, 0xff};
    memcpy(syn.key.destination, is_v6 ? kV6 : kV4, is_v6 ? 16 : 4);
    syn.flags = lab::kSyn;
    syn.window = 65535;
    lab.wire.push(encode(syn));
    lab.settle();
    CHECK_EQ(lab.proxy.dials, 0u);
    REQUIRE(lab.apps.strays.size() == 1);
    lab::TcpSegment ack = syn;
    ack.flags = lab::kAck;
    ack.seq = 1;
    ack.ack = lab.apps.strays[0].segment.seq + 1;
    lab.wire.push(encode(ack));
    lab.settle();
    std::string text;
    for (const auto& p : lab.apps.strays)
      text.append(p.segment.payload.begin(), p.segment.payload.end());
    CHECK_EQ(text, std::string("proxyvpn\n"));
    // Nobody closes it: it must not stay for ever.
    lab.advance(35'000);
    CHECK_EQ(lab.stack().size(), 0u);
  }
}
