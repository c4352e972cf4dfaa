// What the relay sends at the end of a round, with others: it arrives whatever happens in between.
#include <algorithm>
#include <string>
#include <vector>

#include "checked_lab.h"

using lab::AppTcp;
using lab::CheckedLab;
using lab::Dial;
using lab::Lab;

TEST("many small conversations in one round, each byte where it belongs") {
  CheckedLab lab;
  std::vector<Lab::Pair> pairs;
  for (int i = 0; i < 100; i++) {  // more than one batch takes
    pairs.push_back(lab.open());
    REQUIRE(pairs.back());
  }
  for (int round = 0; round < 3; round++) {
    for (size_t i = 0; i < pairs.size(); i++) {
      std::string text = std::to_string(i) + "," + std::to_string(round) + ";";
      pairs[i].app->send(text);
    }
    lab.settle();
  }
  for (size_t i = 0; i < pairs.size(); i++) {
    std::string n = std::to_string(i);
    CHECK_EQ(pairs[i].proxy->received_text(), n + ",0;" + n + ",1;" + n + ",2;");
  }
}

TEST("a hundred connections that begin in one round all ask") {
  CheckedLab lab;
  std::vector<AppTcp*> apps;
  for (int i = 0; i < 100; i++) apps.push_back(&lab.apps.connect());
  lab.settle();
  CHECK_EQ(lab.proxy.ends.size(), 100u);
  for (auto& end : lab.proxy.ends) {
    CHECK(end->request().ends_with("\r\n\r\n"));
    end->reply_ok();
  }
  CHECK(lab.until([&] {
    return std::all_of(apps.begin(), apps.end(), [](AppTcp* app) { return app->is_connected; });
  }));
}

TEST("an attempt that is taken back in its first round asks nothing, under nobody's number") {
  CheckedLab lab;
  AppTcp& hasty = lab.apps.connect();
  hasty.inject(wire::kRst, hasty.initial_seq() + 1, 0);
  AppTcp& patient = lab.apps.connect();  // its socket gets the number of the other's
  AppTcp& third = lab.apps.connect();
  lab.settle();
  REQUIRE(lab.proxy.ends.size() == 3);
  CHECK_EQ(lab.proxy.ends[0]->request(), std::string());
  for (size_t i : {1, 2}) {
    CHECK(lab.proxy.ends[i]->request().ends_with("\r\n\r\n"));
    lab.proxy.ends[i]->reply_ok();
  }
  CHECK(lab.until([&] { return patient.is_connected && third.is_connected; }));
  CHECK(lab.proxy.ends[1]->received.empty());  // no second request behind the first
  CHECK(!hasty.is_connected);
  hasty.reset();
}

TEST("the proxy's next address is asked when a request cannot be sent, in the same round") {
  CheckedLab lab;
  lab.engine().set_upstreams({lab::upstream_address(1), lab::upstream_address(2)});
  lab.proxy.how = Dial::kGone;
  lab.apps.connect();
  lab.apps.connect();
  lab.engine().step(0, lab.now_ms());
  CHECK_EQ(lab.proxy.dials, 4u);
}

TEST("small messages into a socket that is full arrive whole, in order, once it is not") {
  CheckedLab lab;
  lab.proxy.engine_send_buffer = 4096;
  Lab::Pair pair = lab.open();
  REQUIRE(pair);
  Lab::Pair other = lab.open();  // so that there are two in a round
  REQUIRE(other);
  pair.proxy->set_reading(false);
  size_t sent = 0;
  for (int i = 0; i < 60; i++) {
    pair.app->send(lab::pattern(7, 1000, sent));
    other.app->send(lab::pattern(8, 10));
    sent += 1000;
    lab.advance(5);
  }
  CHECK(pair.proxy->received.size() < sent);
  pair.proxy->set_reading(true);
  CHECK(lab.until([&] { return pair.proxy->received.size() == sent; }));
  CHECK_EQ(lab::first_difference(pair.proxy->received, 7), -1);
  CHECK_EQ(other.proxy->received.size(), 600u);
}

TEST("an end right behind the last small message comes after it") {
  CheckedLab lab;
  Lab::Pair a = lab.open(), b = lab.open();
  REQUIRE(a);
  REQUIRE(b);
  for (Lab::Pair* pair : {&a, &b}) {
    pair->app->send(lab::pattern(3, 500));
    pair->app->close();
  }
  CHECK(lab.until([&] { return a.proxy->has_eof && b.proxy->has_eof; }));
  CHECK_EQ(a.proxy->received.size(), 500u);
  CHECK_EQ(b.proxy->received.size(), 500u);
}

TEST("a proxy that has gone ends only its own flow, though others send in the same round") {
  CheckedLab lab;
  Lab::Pair a = lab.open(), b = lab.open();
  REQUIRE(a);
  REQUIRE(b);
  a.proxy->close();
  a.app->send(lab::pattern(1, 100));
  b.app->send(lab::pattern(2, 100));
  CHECK(lab.until([&] { return b.proxy->received.size() == 100; }));
  CHECK(b.app->is_connected);
  CHECK(lab.until([&] { return a.app->is_over() || a.app->is_closed(); }));
}
