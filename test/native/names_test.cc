// Virtual addresses: flows go by the names they stand for, and to nothing where they stand for
// none.
#include <arpa/inet.h>

#include <cerrno>
#include <thread>

#include "checked_lab.h"
#include "name_lab.h"

using engine::Counter;
using lab::AppTcp;
using lab::CheckedLab;
using lab::kSlot0;
using lab::kSlot0v6;
using lab::kSlot1;
using lab::Names;
using relay::EventKind;
using wire::VirtualRange;

namespace {

uint32_t slot_of(const VirtualRange& range, const char* address) {
  uint32_t words[4];
  lab::set_address(words, address);
  return range.slot_of(words, strchr(address, ':') != nullptr);
}

bool covers(const VirtualRange& range, const char* address) {
  uint32_t words[4];
  lab::set_address(words, address);
  return range.covers(words, strchr(address, ':') != nullptr);
}

// The flow's request has come, and nothing else.
lab::ProxyEnd* asked(CheckedLab& lab, size_t ends) {
  bool came = lab.until([&] {
    return lab.proxy.ends.size() == ends && lab.proxy.ends.back()->request().ends_with("\r\n");
  });
  return came ? lab.proxy.ends.back().get() : nullptr;
}

}  // namespace

TEST("slots are counted around the gaps, as src/dns/virtual-range.ts does") {
  auto range = VirtualRange::make("198.18.0.0/15", "fd70:7670:6e00:1::/64",
                                  {{0, 256}, {65280, 256}, {131071, 1}}, 1000'000);
  REQUIRE(range);
  const std::pair<const char*, uint32_t> kCases[] = {
      {"198.18.0.0", VirtualRange::kNone},
      {"198.18.0.255", VirtualRange::kNone},
      {"198.18.1.0", 0},
      {"198.18.1.1", 1},
      {"198.18.254.255", 65023},
      {"198.18.255.0", VirtualRange::kNone},
      {"198.18.255.255", VirtualRange::kNone},
      {"198.19.0.0", 65024},
      {"198.19.255.254", 130558},
      {"198.19.255.255", VirtualRange::kNone},
      {"198.17.255.255", VirtualRange::kNone},
      {"198.20.0.0", VirtualRange::kNone},
      {"fd70:7670:6e00:1::", VirtualRange::kNone},
      {"fd70:7670:6e00:1::1", 0},
      {"fd70:7670:6e00:1::f:4240", 999'999},
      {"fd70:7670:6e00:1::f:4241", VirtualRange::kNone},
      {"fd70:7670:6e00:1::1:0:0", VirtualRange::kNone},
      {"fd70:7670:6e00:1:8000::1", VirtualRange::kNone},
      {"fd70:7670:6e00:2::1", VirtualRange::kNone},
      {"fd70:7670:6e00::1", VirtualRange::kNone},
  };
  for (const auto& [address, slot] : kCases) CHECK_EQ(slot_of(*range, address), slot);
  for (const char* in : {"198.18.0.0", "198.19.255.255", "198.18.1.1",
                         "fd70:7670:6e00:1::", "fd70:7670:6e00:1:ffff:ffff:ffff:ffff"})
    CHECK(covers(*range, in));
  for (const char* out : {"198.17.255.255", "198.20.0.0", "0.0.0.0",
                          "fd70:7670:6e00:0:ffff::", "fd70:7670:6e00:2::", "::"})
    CHECK(!covers(*range, out));
}

TEST("ranges of other lengths, and texts that are none") {
  auto odd = VirtualRange::make("10.1.2.128/25", "2001:db8::100/120", {}, 1000);
  REQUIRE(odd);
  CHECK_EQ(slot_of(*odd, "10.1.2.128"), 0u);
  CHECK_EQ(slot_of(*odd, "10.1.2.255"), 127u);
  CHECK_EQ(slot_of(*odd, "10.1.2.127"), VirtualRange::kNone);
  CHECK_EQ(slot_of(*odd, "2001:db8::101"), 0u);
  CHECK_EQ(slot_of(*odd, "2001:db8::1ff"), 254u);
  CHECK_EQ(slot_of(*odd, "2001:db8::200"), VirtualRange::kNone);
  CHECK(!covers(*odd, "2001:db8::ff"));
  CHECK(!covers(VirtualRange(), "0.0.0.0"));
  CHECK(!covers(VirtualRange(), "::"));
  for (const char* bad : {"", "10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "10.0.0/8", "10.0.0.0/8x",
                          "10.0.0.0/-1", "fd00::/8", "10.0.0.0/ 8"})
    CHECK(!VirtualRange::make(bad, "fd00::/64", {}, 1));
  for (const char* bad : {"", "fd00::", "fd00::/129", "10.0.0.0/8", "fd00::/99999999999"})
    CHECK(!VirtualRange::make("10.0.0.0/8", bad, {}, 1));
}

TEST("a flow to a virtual address is asked for by its name, in both families") {
  Names names;
  names.table->set(0, "www.example.org");
  for (const char* address : {kSlot0, kSlot0v6}) {
    CheckedLab lab(names.options());
    AppTcp& app = lab.apps.connect({.is_v6 = address == kSlot0v6, .destination = address});
    lab::ProxyEnd* proxy = asked(lab, 1);
    REQUIRE(proxy);
    CHECK_EQ(proxy->request(), std::string("CONNECT www.example.org:443 HTTP/1.1\r\n"
                                           "Host: www.example.org:443\r\n\r\n"));
    CHECK_EQ(names.flows(0), 1u);
    proxy->reply_ok();
    REQUIRE(lab.until([&] { return app.is_connected; }));
    exchange(lab, {&app, proxy}, 50'000, 60'000);
    REQUIRE(lab.until([&] { return lab.stack().size() == 0; }, 3000));
    CHECK_EQ(names.flows(0), 0u);
    CHECK(names.was_used(0));
    auto events = lab.events();
    REQUIRE(events.size() == 2);
    CHECK_EQ(events[0].hostname, std::string("www.example.org"));
    CHECK_EQ(events[1].kind, EventKind::kClosed);
    CHECK_EQ(events[1].hostname, std::string("www.example.org"));
    CHECK_EQ(events[1].text, std::string());
  }
}

TEST("other addresses are asked for by number, with names or without") {
  Names names;
  names.table->set(0, "www.example.org");
  CheckedLab lab(names.options());
  auto pair = lab.open();
  REQUIRE(pair);
  CHECK_EQ(pair.proxy->authority(), std::string("203.0.113.5:443"));
  CHECK_EQ(lab.events()[0].hostname, std::string());
}

TEST("a virtual address that stands for nothing is refused at once, told and counted, never sent") {
  Names names;
  names.table->set(0, "www.example.org");
  // A slot without a name, gaps, the end of the range, and beyond the bound of slots.
  const char* kNothing[] = {
      kSlot1,           "198.18.0.7",          "198.18.255.254",     "198.19.255.255",
      "198.19.253.250", "fd70:7670:6e00:1::2", "fd70:7670:6e00:1::", "fd70:7670:6e00:1:1::1"};
  for (const char* address : kNothing) {
    CheckedLab lab(names.options());
    AppTcp& app =
        lab.apps.connect({.is_v6 = strchr(address, ':') != nullptr, .destination = address});
    lab.settle();
    CHECK(app.was_refused);
    CHECK_EQ(lab.proxy.dials, 0u);
    CHECK_EQ(lab.counter(Counter::kUnnamedFlows), 1u);
    CHECK_EQ(lab.counter(Counter::kFailedFlows), 0u);
    CHECK_EQ(lab.counter(Counter::kPendingFlows), 0u);
    auto events = lab.events();
    REQUIRE(events.size() == 1);
    CHECK_EQ(events[0].kind, EventKind::kFailed);
    CHECK_EQ(events[0].error, EADDRNOTAVAIL);
    CHECK_EQ(events[0].text, std::string("the address stands for no name"));
  }
  for (uint32_t slot = 0; slot < Names::kSlots; slot++)
    if (names.flows(slot)) CHECK_EQ(names.flows(slot), 0u);
}

TEST("the health address answers, though it lies in the range") {
  Names names;
  CheckedLab lab(names.options());
  AppTcp& app = lab.apps.connect({.destination_port = 7, .destination = "198.18.255.254"});
  REQUIRE(lab.until([&] { return app.has_eof; }));
  CHECK_EQ(app.received_text(), std::string("proxyvpn\n"));
  app.close();
  CHECK_EQ(lab.counter(Counter::kUnnamedFlows), 0u);
}

TEST("a flow keeps the name of its SYN, and the next has the new one") {
  Names names;
  names.table->set(0, "old.example");
  CheckedLab lab(names.options());
  AppTcp& first = lab.apps.connect({.destination = kSlot0});
  auto* proxy = asked(lab, 1);
  REQUIRE(proxy);
  names.table->set(0, "new.example");
  proxy->reply_ok();
  REQUIRE(lab.until([&] { return first.is_connected; }));
  CHECK_EQ(lab.events()[0].hostname, std::string("old.example"));
  lab.apps.connect({.destination = kSlot0});
  auto* second = asked(lab, 2);
  REQUIRE(second);
  CHECK_EQ(second->authority(), std::string("new.example:443"));
  CHECK_EQ(names.flows(0), 2u);
  names.table->set(0, "");
  AppTcp& third = lab.apps.connect({.destination = kSlot0});
  lab.settle();
  CHECK(third.was_refused);
  CHECK_EQ(names.flows(0), 2u);
}

TEST("whatever ends a flow, its address is no longer counted") {
  Names names;
  names.table->set(0, "www.example.org");
  CheckedLab lab(names.options());
  auto start = [&]() -> AppTcp& {
    AppTcp& app = lab.apps.connect({.destination = kSlot0});
    lab.settle();
    return app;
  };
  auto end = [&]() -> lab::ProxyEnd& { return *lab.proxy.ends.back(); };
  start();  // refused
  CHECK_EQ(names.flows(0), 1u);
  end().send("HTTP/1.1 403 No\r\n\r\n");
  lab.settle();
  CHECK_EQ(names.flows(0), 0u);
  start();  // no answer at all
  end().close();
  lab.settle();
  CHECK_EQ(names.flows(0), 0u);
  AppTcp& taken_back = start();
  taken_back.inject(lab::kRst, taken_back.initial_seq() + 1, 0);
  taken_back.set_silent(true);
  lab.settle();
  CHECK_EQ(names.flows(0), 0u);
  start().set_silent(true);  // never answered
  lab.advance(32'000);
  CHECK_EQ(names.flows(0), 0u);
  AppTcp& open = start();
  end().reply_ok();
  REQUIRE(lab.until([&] { return open.is_connected; }));
  open.reset();
  lab.settle();
  CHECK_EQ(names.flows(0), 0u);
  for (const auto& e : lab.events()) CHECK_EQ(e.hostname, std::string("www.example.org"));
}

TEST("the end of the engine ends what it has counted") {
  Names names;
  names.table->set(0, "www.example.org");
  names.table->set(1, "b.example");
  lab::Lab lab(names.options());
  lab.apps.connect({.destination = kSlot0});
  lab.apps.connect({.destination = kSlot1});
  lab.settle();
  CHECK_EQ(names.flows(0) + names.flows(1), 2u);
  lab.destroy_engine();
  CHECK_EQ(names.flows(0) + names.flows(1), 0u);
}

TEST("a text that could not stand in a request is no name") {
  Names names;
  CheckedLab lab(names.options());
  const std::string kBad[] = {"a b",
                              "a\r\nX: y",
                              "a:1",
                              "user@a",
                              "[::1]",
                              "a/b",
                              std::string(256, 'a'),
                              std::string("a\0b", 3),
                              "\xc3\xa4.example"};
  for (const std::string& bad : kBad) {
    names.table->set(0, bad);
    CHECK_EQ(names.table->begin_flow(0), std::string());
  }
  CHECK_EQ(names.flows(0), 0u);
  names.table->set(0, "a-b_c.EXAMPLE");
  CHECK_EQ(names.table->begin_flow(0), std::string("a-b_c.EXAMPLE"));
  names.table->end_flow(0);
  names.table->set(Names::kSlots, "beyond.example");  // nothing happens
  names.table->set(UINT32_MAX, "beyond.example");
}

TEST("flows are listed with their names") {
  Names names;
  names.table->set(0, "www.example.org");
  CheckedLab lab(names.options());
  lab.apps.connect({.destination = kSlot0});
  lab.settle();
  std::optional<std::vector<lab::EventRecord>> listed;
  lab.engine().list_flows(9,
                          [&](std::vector<uint8_t> batch) { listed = lab::decode_events(batch); });
  lab.settle();
  REQUIRE(listed && listed->size() == 1);
  CHECK_EQ((*listed)[0].hostname, std::string("www.example.org"));
}

TEST("names are set and flows come and go on many threads at once, and none is miscounted") {
  Names names;
  constexpr int kRounds = 20'000;
  std::atomic<uint32_t> mixed_up = 0;
  auto flows = [&] {
    for (uint32_t i = 0; i < kRounds; i++) {
      std::string name = names.table->begin_flow(i % 64);
      if (name.empty()) continue;
      if (name != "name-" + std::to_string(i % 64) + ".example") mixed_up++;
      names.table->end_flow(i % 64);
    }
  };
  std::thread first(flows), second(flows);
  for (uint32_t i = 0; i < kRounds; i++)
    names.table->set(i % 64, i % 3 ? "name-" + std::to_string(i % 64) + ".example" : "");
  first.join();
  second.join();
  CHECK_EQ(mixed_up, 0u);
  for (uint32_t slot = 0; slot < 64; slot++) CHECK_EQ(names.flows(slot), 0u);
}

// ---- DNS over TCP ----

TEST("a stream to port 53 goes to the DNS socket behind a PROXY line, and opens at once") {
  Names names;
  for (bool is_v6 : {false, true}) {
    CheckedLab lab(names.options());
    AppTcp& app = lab.apps.connect({.is_v6 = is_v6, .port = 40001, .destination_port = 53});
    REQUIRE(lab.until([&] { return app.is_connected; }, 100));
    REQUIRE(lab.proxy.ends.size() == 1);
    lab::ProxyEnd& dns = *lab.proxy.ends[0];
    CHECK(dns.is_dns);
    CHECK_EQ(dns.request(), std::string(is_v6 ? "PROXY TCP6 2001:db8::10 2001:db8:7::5 40001 53\r\n"
                                              : "PROXY TCP4 192.0.2.10 203.0.113.5 40001 53\r\n"));
    exchange(lab, {&app, &dns}, 3000, 70'000);
  }
}

TEST("a stream to port 53 of a virtual address is a flow like others") {
  Names names;
  names.table->set(0, "dns.example");
  CheckedLab lab(names.options());
  lab.apps.connect({.destination_port = 53, .destination = kSlot0});
  auto* proxy = asked(lab, 1);
  REQUIRE(proxy);
  CHECK_EQ(proxy->authority(), std::string("dns.example:53"));
  AppTcp& nothing = lab.apps.connect({.destination_port = 53, .destination = kSlot1});
  lab.settle();
  CHECK(nothing.was_refused);
}

TEST("a stream to port 53 of an address left out of the range is DNS") {
  Names names;
  CheckedLab lab(names.options());
  AppTcp& app = lab.apps.connect({.destination_port = 53, .destination = "198.18.0.9"});
  REQUIRE(lab.until([&] { return app.is_connected; }, 100));
  CHECK(lab.proxy.ends.back()->is_dns);
}

TEST("where DNS is not caught, port 53 is a port") {
  Names names;
  CheckedLab lab(names.options(false));
  lab.apps.connect({.destination_port = 53});
  auto* proxy = asked(lab, 1);
  REQUIRE(proxy);
  CHECK_EQ(proxy->authority(), std::string("203.0.113.5:53"));
}

TEST("a DNS socket that cannot be reached is a refusal, and no address of the proxy suffers") {
  Names names;
  for (int error : {ECONNREFUSED, ENOENT, EAGAIN, EMFILE}) {
    CheckedLab lab(names.options());
    lab.engine().set_upstreams({lab::upstream_address(1), lab::upstream_address(2)});
    lab.proxy.failing_ports = {1};
    lab.proxy.next_error = ECONNREFUSED;
    lab.apps.connect();
    REQUIRE(asked(lab, 1));  // from now on the second address is the first
    lab.proxy.dns_error = error;
    AppTcp& app = lab.apps.connect({.destination_port = 53});
    lab.settle();
    CHECK(app.was_refused);
    auto counted = error == EMFILE ? Counter::kOverLimitFlows : Counter::kFailedFlows;
    CHECK_EQ(lab.counter(counted), 1u);
    lab.proxy.dns_error = 0;
    AppTcp& later = lab.apps.connect({.destination_port = 53});
    REQUIRE(lab.until([&] { return later.is_connected; }));
    size_t dials = lab.proxy.dials;
    lab.apps.connect();
    lab.settle();
    CHECK_EQ(lab.proxy.dials, dials + 1);
    CHECK_EQ(lab.proxy.ends.back()->dialled_address, 2u);
  }
}

TEST("DNS streams need no proxy") {
  Names names;
  CheckedLab lab(names.options());
  lab.engine().set_upstreams({});
  AppTcp& app = lab.apps.connect({.destination_port = 53});
  REQUIRE(lab.until([&] { return app.is_connected; }));
}

TEST("a DNS socket that takes its time is waited for") {
  Names names;
  auto options = names.options();
  options.dial = lab::Dial::kLater;
  for (bool early : {false, true}) {
    options.engine.relay.early_accept = early;
    CheckedLab lab(options);
    AppTcp& app = lab.apps.connect({.destination_port = 53});
    lab.advance(100);
    CHECK_EQ(app.is_connected, early);
    REQUIRE(lab.proxy.ends.size() == 1);
    lab.proxy.ends[0]->establish();
    REQUIRE(lab.until([&] { return app.is_connected; }));
    exchange(lab, {&app, lab.proxy.ends[0].get()}, 100, 100);
  }
}

TEST("a DNS stream that its server ends is ended; one that is reset is reset") {
  Names names;
  CheckedLab lab(names.options());
  AppTcp& app = lab.apps.connect({.destination_port = 53});
  REQUIRE(lab.until([&] { return app.is_connected; }));
  lab.proxy.ends.back()->finish();
  REQUIRE(lab.until([&] { return app.has_eof; }));
  app.close();
  REQUIRE(lab.until([&] { return lab.proxy.ends.back()->has_eof; }));
}
