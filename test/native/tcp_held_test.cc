// A SYN is held until the proxy has answered, and the answer is told truthfully.
#include "checked_lab.h"

using lab::AppTcp;
using lab::CheckedLab;

TEST("a SYN gets no answer before the proxy's") {
  CheckedLab lab;
  AppTcp& app = lab.apps.connect();
  lab.advance(900);
  CHECK_EQ(app.packets_received, 0);
  CHECK_EQ(lab.proxy.ends.size(), 1u);
  CHECK_EQ(lab.stats().pending, 1);
}
TEST("2xx opens") {
  CheckedLab lab;
  auto pair = lab.open();
  REQUIRE(pair);
  pair.app->send("hello");
  REQUIRE(lab.until([&] { return pair.proxy->received_text() == "hello"; }));
  pair.proxy->send("world");
  REQUIRE(lab.until([&] { return pair.app->received_text() == "world"; }));
  pair.app->close();
  REQUIRE(lab.until([&] { return pair.proxy->has_eof; }));
  pair.proxy->finish();
  REQUIRE(lab.until([&] { return pair.app->is_closed(); }));
}
