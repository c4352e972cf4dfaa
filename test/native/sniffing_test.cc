// Flows that are accepted early, so that their first bytes can tell the name to ask for.
#include <cerrno>

#include "checked_lab.h"
#include "name_lab.h"

using engine::Counter;
using lab::AppTcp;
using lab::CheckedLab;
using lab::LabOptions;
using relay::EventKind;

namespace {

LabOptions sniffing() {
  LabOptions o;
  o.engine.relay.sniffs = true;
  return o;
}

const std::string kRequest = "GET / HTTP/1.1\r\nHost: www.example.org\r\n\r\n";

// A connected application, before it has said anything.
AppTcp& connected(CheckedLab& lab, const lab::AppOptions& options = {}) {
  AppTcp& app = lab.apps.connect(options);
  CHECK(lab.until([&] { return app.is_connected; }, 100));
  CHECK_EQ(lab.proxy.dials, 0u);
  return app;
}

// What the proxy was asked for, by whatever comes last; empty: nothing.
std::string asked_for(CheckedLab& lab) {
  lab.settle();
  return lab.proxy.ends.empty() ? std::string() : lab.proxy.ends.back()->authority();
}

}  // namespace

TEST("the name of the first bytes is asked for, and they are the first the proxy hears") {
  for (bool is_v6 : {false, true}) {
    CheckedLab lab(sniffing());
    AppTcp& app = connected(lab, {.is_v6 = is_v6, .destination_port = 8080});
    app.send(kRequest);
    CHECK_EQ(asked_for(lab), std::string("www.example.org:8080"));
    lab.proxy.ends[0]->reply_ok();
    REQUIRE(lab.until([&] { return lab.proxy.ends[0]->received.size() == kRequest.size(); }));
    CHECK_EQ(lab.proxy.ends[0]->received_text(), kRequest);
    auto events = lab.events();
    REQUIRE(events.size() == 1);
    CHECK_EQ(events[0].hostname, std::string("www.example.org"));
    lab.proxy.ends[0]->send(lab::pattern(2, 100'000));
    lab.proxy.ends[0]->finish();
    app.close();
    REQUIRE(lab.until([&] { return app.is_closed(); }));
    CHECK_EQ(lab::first_difference(app.received, 2), -1);
  }
}

TEST("a name a byte at a time is found all the same") {
  CheckedLab lab(sniffing());
  AppTcp& app = connected(lab);
  for (char c : kRequest) {
    app.send(std::string_view(&c, 1));
    lab.settle();
  }
  CHECK_EQ(asked_for(lab), std::string("www.example.org:443"));
  lab.proxy.ends[0]->reply_ok();
  REQUIRE(lab.until([&] { return lab.proxy.ends[0]->received_text() == kRequest; }));
}

TEST("bytes that name no host are sent by number at once") {
  for (const char* text : {"SSH-2.0-x\r\n", "\x16\x03\x01\x00\x05\x01", "GET / HTTP/1.1\r\n\r\n",
                           "GET / HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n", "\x01"}) {
    std::string_view bytes(text, *text == '\x16' ? 6 : strlen(text));
    CheckedLab lab(sniffing());
    connected(lab).send(bytes);
    bool is_undecided = *text == '\x16';  // the rest may follow
    CHECK_EQ(asked_for(lab), std::string(is_undecided ? "" : "203.0.113.5:443"));
  }
}

TEST("where the server speaks first, the flow is dialled by number after 300 ms of silence") {
  CheckedLab lab(sniffing());
  AppTcp& app = connected(lab);
  lab.advance(280);
  CHECK_EQ(lab.proxy.dials, 0u);
  lab.advance(40);
  CHECK_EQ(asked_for(lab), std::string("203.0.113.5:443"));
  lab.proxy.ends[0]->reply_ok();
  lab.proxy.ends[0]->send("SSH-2.0-server\r\n");
  CHECK(lab.until([&] { return app.received_text() == "SSH-2.0-server\r\n"; }));
  app.received.clear();
  exchange(lab, {&app, lab.proxy.ends[0].get()}, 1000, 1000);
}

TEST("half a name is waited for three seconds, and then goes by number with all its bytes") {
  CheckedLab lab(sniffing());
  AppTcp& app = connected(lab);
  app.send("GET / HT");
  lab.advance(1500);
  app.send("TP/1.1\r\nHo");
  lab.advance(1400);
  CHECK_EQ(lab.proxy.dials, 0u);
  lab.advance(200);
  CHECK_EQ(asked_for(lab), std::string("203.0.113.5:443"));
  lab.proxy.ends[0]->reply_ok();
  app.send("st: a\r\n\r\n");
  REQUIRE(lab.until(
      [&] { return lab.proxy.ends[0]->received_text() == "GET / HTTP/1.1\r\nHost: a\r\n\r\n"; }));
}

TEST("a name that comes after the first limit and before the second is found") {
  CheckedLab lab(sniffing());
  AppTcp& app = connected(lab);
  app.send("GET / HTTP/1.1\r\n");
  lab.advance(1000);
  app.send("Host: late.example\r\n");
  CHECK_EQ(asked_for(lab), std::string("late.example:443"));
  lab.advance(5000);
  CHECK_EQ(lab.proxy.dials, 1u);
}

TEST("sixteen KiB without a name go by number, all of them") {
  for (size_t bytes : {size_t{20'000}, size_t{200'000}}) {
    CheckedLab lab(sniffing());
    AppTcp& app = connected(lab);
    app.send("GET / HTTP/1.1\r\nX: " + std::string(bytes, 'x'));
    lab.advance(50);
    CHECK_EQ(asked_for(lab), std::string("203.0.113.5:443"));
    lab.proxy.ends[0]->reply_ok();
    CHECK(lab.until([&] { return lab.proxy.ends[0]->received.size() == bytes + 19; }));
  }
}

TEST("a FIN before the name goes by number, with and without bytes") {
  for (const char* text : {"", "GET / HT", "GET / HTTP/1.1\r\nHost: www.example.org"}) {
    CheckedLab lab(sniffing());
    AppTcp& app = connected(lab);
    app.send(text);
    app.close();
    CHECK_EQ(asked_for(lab), std::string("203.0.113.5:443"));
    lab.proxy.ends[0]->reply_ok();
    REQUIRE(lab.until([&] { return lab.proxy.ends[0]->has_eof; }));
    CHECK_EQ(lab.proxy.ends[0]->received_text(), std::string(text));
    lab.proxy.ends[0]->finish();
    CHECK(lab.until([&] { return app.is_closed(); }));
  }
}

TEST("a name and a FIN in one go by name") {
  CheckedLab lab(sniffing());
  AppTcp& app = connected(lab);
  app.send(kRequest);
  app.close();
  CHECK_EQ(asked_for(lab), std::string("www.example.org:443"));
}

TEST("a RST before the name ends the flow, and nobody is dialled") {
  for (const char* text : {"", "GET / HT"}) {
    CheckedLab lab(sniffing());
    AppTcp& app = connected(lab);
    app.send(text);
    lab.settle();
    app.reset();
    lab.settle();
    CHECK_EQ(lab.counter(Counter::kActiveFlows), 0u);
    lab.advance(4000);
    CHECK_EQ(lab.proxy.dials, 0u);
    CHECK_EQ(lab.stack().size(), 0u);
  }
}

TEST("a refusal is a RST of the accepted flow, told with its name") {
  CheckedLab lab(sniffing());
  AppTcp& app = connected(lab);
  app.send(kRequest);
  REQUIRE(asked_for(lab) == "www.example.org:443");
  lab.proxy.ends[0]->send("HTTP/1.1 403 No\r\n\r\n");
  REQUIRE(lab.until([&] { return app.was_reset; }));
  auto events = lab.events();
  REQUIRE(events.size() == 1);
  CHECK_EQ(events[0].kind, EventKind::kRefused);
  CHECK_EQ(events[0].hostname, std::string("www.example.org"));
  CHECK_EQ(events[0].text, std::string("HTTP/1.1 403 No\r\n\r\n"));
}

TEST("a proxy that cannot be reached is a RST of the accepted flow") {
  LabOptions options = sniffing();
  options.dial = lab::Dial::kError;
  CheckedLab lab(options);
  lab.proxy.next_error = ECONNREFUSED;
  AppTcp& by_name = connected(lab);
  by_name.send(kRequest);
  REQUIRE(lab.until([&] { return by_name.was_reset; }, 100));
  lab.apps.connect();
  lab.advance(400);
  CHECK(lab.apps.all().back()->was_reset);
}

TEST("the dial's time-out counts from the SYN, whatever was waited for") {
  LabOptions options = sniffing();
  options.engine.relay.connect_timeout_ms = 2000;
  CheckedLab lab(options);
  AppTcp& app = connected(lab);
  app.send("GET / HT");
  lab.advance(3500);
  CHECK(app.was_reset);
  CHECK_EQ(lab.proxy.dials, 0u);
}

TEST("names that are known and DNS are not sniffed") {
  lab::Names names;
  names.table->set(0, "known.example");
  LabOptions options = names.options();
  options.engine.relay.sniffs = true;
  CheckedLab lab(options);
  AppTcp& app = lab.apps.connect({.destination = lab::kSlot0});
  CHECK_EQ(asked_for(lab), std::string("known.example:443"));
  CHECK(!app.is_connected);
  AppTcp& dns = lab.apps.connect({.destination_port = 53});
  REQUIRE(lab.until([&] { return dns.is_connected; }, 100));
  CHECK(lab.proxy.ends.back()->is_dns);
  AppTcp& other = lab.apps.connect();
  REQUIRE(lab.until([&] { return other.is_connected; }, 100));
  other.send(kRequest);
  CHECK_EQ(asked_for(lab), std::string("www.example.org:443"));
}

TEST("many flows at once, of every kind, leave nothing behind") {
  CheckedLab lab(sniffing());
  for (int i = 0; i < 200; i++) {
    AppTcp& app = lab.apps.connect();
    lab.settle();
    if (i % 4 == 0) app.send(kRequest);
    if (i % 4 == 1) app.send("GET");
    if (i % 4 == 2) app.reset();
    if (i % 5 == 0) app.close();
    lab.advance(5);
    for (auto& end : lab.proxy.ends)
      if (end->is_open() && end->sent_bytes == 0) end->reply_ok();
  }
  lab.advance(4000);
}

TEST("the engine may end while it waits for names") {
  lab::Lab lab(sniffing());
  for (int i = 0; i < 20; i++) {
    AppTcp& app = lab.apps.connect();
    lab.settle();
    if (i % 2) app.send("GET");
    lab.advance(40);
  }
  lab.destroy_engine();
}
