// Downloads to apps of this host in packets that are larger than an IPv4 header can say.
#include <cerrno>

#include "checked_lab.h"

using engine::Counter;
using lab::CheckedLab;
using lab::Lab;
using lab::LabOptions;

namespace {

constexpr uint32_t kSayable = 65535;
constexpr size_t kDownload = 4 << 20;

LabOptions with_app_here(tun::Faults faults = {}) {
  LabOptions options;
  options.engine.relay.is_app_here = [](const wire::FlowKey&) { return true; };
  options.engine.faults = faults;
  return options;
}

// 0: they are lost without a word.
void refuse_large_packets(Lab& lab, int error) {
  lab.wire.largest_packet = kSayable + sizeof(tun::VnetHeader);
  lab.wire.too_large_error = error;
}

struct Way {
  size_t up, down;
};
constexpr Way kWays[] = {{0, kDownload}, {1 << 20, 1 << 20}};

}  // namespace

TEST("a download to an app of this host comes in large packets, byte for byte") {
  CheckedLab lab(with_app_here());
  auto pair = lab.open();
  REQUIRE(pair);
  exchange(lab, pair, 0, kDownload);
  CHECK(pair.app->largest_payload > 2 * kSayable);
  CHECK(pair.app->data_packets_received < kDownload / kSayable);
}

TEST("an app that is not on this host gets none: they would be cut in software on their way") {
  LabOptions options;
  options.engine.relay.is_app_here = [](const wire::FlowKey&) { return false; };
  CheckedLab lab(options);
  auto pair = lab.open();
  REQUIRE(pair);
  exchange(lab, pair, 0, kDownload);
  CHECK(pair.app->largest_payload > kSayable / 2);
  CHECK(pair.app->largest_payload <= kSayable);
}

TEST("addresses of no interface are not of this host") {  // make_key() gives documentation's
  CheckedLab lab;
  auto pair = lab.open();
  REQUIRE(pair);
  exchange(lab, pair, 0, kDownload);
  CHECK(pair.app->largest_payload <= kSayable);
}

TEST("over IPv6 there are none") {
  CheckedLab lab(with_app_here());
  auto pair = lab.open({.is_v6 = true});
  REQUIRE(pair);
  exchange(lab, pair, 0, kDownload);
  CHECK(pair.app->largest_payload <= kSayable);
}

TEST("large packets keep to windows of any size") {
  for (uint32_t window : {3000u, 20'000u, 65'535u, 100'000u, 300'000u}) {
    CheckedLab lab(with_app_here());
    auto pair = lab.open({.window = window});
    REQUIRE(pair);
    exchange(lab, pair, 100'000, kDownload);  // beyond the window is a complaint
  }
}

TEST("without window scaling no packet is large") {
  CheckedLab lab(with_app_here());
  auto pair = lab.open({.window_scale = {}});
  REQUIRE(pair);
  exchange(lab, pair, 0, kDownload);
  CHECK(pair.app->largest_payload <= kSayable);
}

TEST("a share that is no multiple of a segment is read at once and leaves in one packet") {
  constexpr size_t kShare = 100'000;
  LabOptions options = with_app_here();
  options.engine.relay.send_limit = kShare;
  CheckedLab lab(options);
  auto pair = lab.open({.window = 1 << 20});
  REQUIRE(pair);
  exchange(lab, pair, 0, kDownload);
  CHECK_EQ(pair.app->largest_payload, kShare);
  CHECK(pair.app->data_packets_received <= kDownload / kShare + 2);
}

TEST("an app that stops reading in the middle gets the rest when it goes on") {
  CheckedLab lab(with_app_here());
  auto pair = lab.open();
  REQUIRE(pair);
  pair.app->set_reading(false);
  pair.proxy->send(lab::pattern(2, kDownload));
  lab.advance(3000);
  CHECK(pair.app->largest_payload > kSayable);
  pair.app->set_reading(true);
  REQUIRE(lab.until([&] { return pair.app->received.size() == kDownload; }, 60'000));
  CHECK_EQ(lab::first_difference(pair.app->received, 2), -1);
}

TEST("an app that resets in the middle of a large packet leaves nothing behind") {
  CheckedLab lab(with_app_here());
  auto pair = lab.open();
  REQUIRE(pair);
  pair.proxy->send(lab::pattern(2, kDownload));
  lab.round();
  pair.app->reset();
  CHECK(lab.until([&] { return lab.counter(Counter::kActiveFlows) == 0; }));
}

TEST("a device that takes none is asked once, and loses nothing") {
  CheckedLab lab(with_app_here());
  refuse_large_packets(lab, EMSGSIZE);
  auto pair = lab.open();
  REQUIRE(pair);
  exchange(lab, pair, 0, kDownload, 150);  // no time-out has a part in it
  CHECK_EQ(lab.wire.too_large, 1u);
  CHECK(pair.app->largest_payload <= kSayable);
}

TEST("a device short of memory gets smaller ones, and large ones again later") {
  CheckedLab lab(with_app_here());
  refuse_large_packets(lab, ENOBUFS);
  auto pair = lab.open();
  REQUIRE(pair);
  pair.proxy->send(lab::pattern(2, kDownload));
  REQUIRE(lab.until([&] { return pair.app->received.size() == kDownload; }, 150));
  CHECK(lab.wire.too_large > 1);
  CHECK(pair.app->largest_payload <= kSayable);
  lab.wire.largest_packet = SIZE_MAX;
  pair.proxy->send(lab::pattern(2, kDownload, kDownload));
  REQUIRE(lab.until([&] { return pair.app->received.size() == 2 * kDownload; }, 150));
  CHECK_EQ(lab::first_difference(pair.app->received, 2), -1);
  CHECK(pair.app->largest_payload > kSayable);
}

TEST("large packets that never arrive are given up after a few, and no byte is missing") {
  CheckedLab lab(with_app_here());
  refuse_large_packets(lab, 0);
  auto pair = lab.open();
  REQUIRE(pair);
  exchange(lab, pair, 0, kDownload, 30'000);
  uint32_t lost = lab.wire.too_large;
  CHECK(lost > 0);
  CHECK(lost < 20);
  auto next = lab.open();
  REQUIRE(next);
  exchange(lab, next, 0, kDownload, 150);
  CHECK_EQ(lab.wire.too_large, lost);
}

TEST("one that is lost now and then is no reason to give them up") {
  CheckedLab lab(with_app_here({.drop_one_in = 50, .seed = 7919}));
  lab.may_reorder = true;
  auto pair = lab.open();
  REQUIRE(pair);
  exchange(lab, pair, 0, 64 << 20, 900'000);
  auto next = lab.open();
  REQUIRE(next);
  exchange(lab, next, 0, kDownload, 900'000);
  CHECK(next.app->largest_payload > kSayable);
}

TEST("large packets lost, doubled and overtaken: every byte arrives, once and in its place") {
  for (const Way& way : kWays) {
    for (uint64_t seed : {3, 4, 5}) {
      tun::Faults faults{
          .drop_one_in = 20, .duplicate_one_in = 10, .delay_one_in = 10, .seed = seed * 104729};
      CheckedLab lab(with_app_here(faults));
      lab.may_reorder = true;
      auto pair = lab.open({.segment_bytes = 30'000});
      REQUIRE(pair);
      exchange(lab, pair, way.up, way.down, 900'000);
    }
  }
}
