// UDP from the device: queries are collected, replies written, and the rest is told that nobody
// listens.
#include <arpa/inet.h>

#include "checked_lab.h"
#include "name_lab.h"
#include "wire/datagram.h"

using engine::Counter;
using lab::Bytes;
using lab::CheckedLab;
using lab::FromEngine;
using lab::LabOptions;
using lab::Names;
using wire::DatagramVerdict;
using wire::DatagramView;

namespace {

constexpr bool kBothFamilies[] = {false, true};
constexpr size_t kVnetBytes = 10;

lab::UdpDatagram query(bool is_v6, const std::string& text = "question", uint16_t port = 53) {
  return {lab::make_key(is_v6, 40000, port), Bytes(text.begin(), text.end())};
}

lab::UdpDatagram to(const char* address, uint16_t port, const std::string& text = "x") {
  lab::UdpDatagram out = query(strchr(address, ':') != nullptr, text, port);
  lab::set_address(out.key.destination, address);
  return out;
}

Bytes without_vnet(const Bytes& packet) { return {packet.begin() + kVnetBytes, packet.end()}; }

struct Record {
  wire::FlowKey key;
  std::string payload;
  bool operator==(const Record&) const = default;
};

uint32_t le16(const Bytes& b, size_t at) { return b[at] | static_cast<uint32_t>(b[at + 1]) << 8; }

// Read by hand, as stack/datagrams.h says.
std::vector<Record> records_of(const Bytes& batch) {
  std::vector<Record> out;
  for (size_t at = 0; at < batch.size();) {
    Record r;
    size_t length = le16(batch, at);
    if (length < 40 || at + length > batch.size()) {
      harness::fail(__FILE__, __LINE__, "a batch is whole records");
      break;
    }
    r.key.family = batch[at + 2];
    r.key.app_port = htons(static_cast<uint16_t>(le16(batch, at + 4)));
    r.key.destination_port = htons(static_cast<uint16_t>(le16(batch, at + 6)));
    memcpy(r.key.app, &batch[at + 8], 16);
    memcpy(r.key.destination, &batch[at + 24], 16);
    r.payload.assign(reinterpret_cast<const char*>(&batch[at + 40]), length - 40);
    out.push_back(r);
    at += length;
  }
  return out;
}

Bytes record(const wire::FlowKey& key, const std::string& payload) {
  Bytes out(40);
  auto put = [&](size_t at, size_t v) {
    out[at] = static_cast<uint8_t>(v);
    out[at + 1] = static_cast<uint8_t>(v >> 8);
  };
  put(0, 40 + payload.size());
  out[2] = static_cast<uint8_t>(key.family);
  put(4, ntohs(key.app_port));
  put(6, ntohs(key.destination_port));
  memcpy(&out[8], key.app, 16);
  memcpy(&out[24], key.destination, 16);
  out.insert(out.end(), payload.begin(), payload.end());
  return out;
}

// What the app's host got, beside connections.
std::vector<FromEngine> answers(CheckedLab& lab) {
  lab.settle();
  return std::exchange(lab.apps.strays, {});
}

std::vector<Record> queries(CheckedLab& lab) {
  lab.settle();
  return records_of(lab.engine().take_datagrams());
}

}  // namespace

TEST("a query is handed over with its ends, and its reply comes from whom it was asked") {
  Names names;
  for (bool is_v6 : kBothFamilies) {
    for (bool is_offloaded : {false, true}) {
      CheckedLab lab(names.options());
      auto asked = query(is_v6);
      lab.wire.push(encode(asked, is_offloaded));
      auto got = queries(lab);
      REQUIRE(got.size() == 1);
      CHECK(got[0] == (Record{asked.key, "question"}));
      lab.engine().send_datagrams(record(asked.key, "answer"));
      auto sent = answers(lab);
      REQUIRE(sent.size() == 1);
      CHECK_EQ(sent[0].kind, FromEngine::Kind::kUdp);
      CHECK(sent[0].segment.key == asked.key);
      CHECK_EQ(sent[0].segment.payload, (Bytes{'a', 'n', 's', 'w', 'e', 'r'}));
      CHECK_EQ(lab.counter(Counter::kDatagramsFromApp), 1u);
      CHECK_EQ(lab.counter(Counter::kDatagramsToApp), 1u);
      CHECK_EQ(lab.counter(Counter::kIgnoredPackets), 0u);
    }
  }
}

TEST("replies of every length, odd ones too, have the right checksum; beyond the MTU none goes") {
  Names names;
  for (bool is_v6 : kBothFamilies) {
    CheckedLab lab(names.options());
    size_t most = is_v6 ? 1452 : 1472;
    for (size_t length = 0; length <= most; length += length < 40 ? 1 : 97) {
      std::string payload(length, static_cast<char>(length));
      lab.engine().send_datagrams(record(query(is_v6).key, payload));
      auto sent = answers(lab);
      REQUIRE(sent.size() == 1);
      CHECK_EQ(sent[0].segment.payload.size(), length);
    }
    lab.engine().send_datagrams(record(query(is_v6).key, std::string(most, 'x')));
    CHECK_EQ(answers(lab).size(), 1u);
    lab.engine().send_datagrams(record(query(is_v6).key, std::string(most + 1, 'x')));
    CHECK_EQ(answers(lab).size(), 0u);
    CHECK_EQ(lab.counter(Counter::kDroppedDatagrams), 1u);
  }
}

TEST("a checksum of zero is sent as its other form") {
  // A payload that makes the sum 0xffff, so that its complement is 0.
  Names names;
  CheckedLab lab(names.options());
  wire::FlowKey key = query(false).key;
  lab.engine().send_datagrams(record(key, std::string("\0\0", 2)));
  lab.settle();
  for (uint32_t i = 0; i < 65536; i += 1) {
    uint8_t payload[2] = {static_cast<uint8_t>(i >> 8), static_cast<uint8_t>(i)};
    uint8_t headers[64];
    wire::put_udp_reply_headers(headers, key, payload);
    if (headers[26] == 0 && headers[27] == 0) {
      CHECK_EQ(i, 65536u);
      return;
    }
  }
}

TEST("records that contradict themselves end the batch; nothing else happens") {
  Names names;
  CheckedLab lab(names.options());
  Bytes good = record(query(false).key, "ok");
  auto send = [&](Bytes bad) {
    lab.engine().send_datagrams(lab::joined({good, bad, good}));
    return answers(lab).size();
  };
  Bytes zero = good, too_long = good, no_family = good;
  zero[0] = zero[1] = 0;
  too_long[1] = 0xff;
  no_family[2] = 5;
  CHECK_EQ(send(zero), 1u);
  CHECK_EQ(send(too_long), 1u);
  CHECK_EQ(send(no_family), 1u);
  CHECK_EQ(send({}), 2u);
  CHECK_EQ(lab.counter(Counter::kDroppedDatagrams), 3u);
  for (size_t cut = 0; cut < good.size(); cut++) {
    lab.engine().send_datagrams(
        Bytes(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(cut)));
    CHECK_EQ(answers(lab).size(), 0u);
  }
}

TEST("a burst is handed over with one wake-up a round at most, and none while nobody has taken") {
  Names names;
  CheckedLab lab(names.options());
  for (int i = 0; i < 1000; i++) lab.wire.push(encode(query(i % 2 == 1, std::to_string(i))));
  lab.settle();
  CHECK_EQ(lab.datagram_wakes, 1u);
  auto got = queries(lab);
  REQUIRE(got.size() == 1000);
  for (int i = 0; i < 1000; i++) CHECK_EQ(got[static_cast<size_t>(i)].payload, std::to_string(i));
  CHECK_EQ(queries(lab).size(), 0u);
  lab.wire.push(encode(query(false)));
  CHECK_EQ(queries(lab).size(), 1u);
  CHECK_EQ(lab.datagram_wakes, 2u);
}

TEST("queries that nobody takes have a bound, in number and in bytes, and are counted") {
  Names names;
  for (size_t bytes : {size_t{12}, size_t{4000}}) {
    CheckedLab lab(names.options());
    for (int i = 0; i < 20'000; i++) lab.wire.push(encode(query(false, std::string(bytes, 'x'))));
    lab.settle();
    size_t kept = lab.engine().take_datagrams().size();
    CHECK(kept <= (2u << 20));
    CHECK(kept / (40 + bytes) <= 8192);
    CHECK_EQ(lab.counter(Counter::kDroppedDatagrams) + kept / (40 + bytes), 20'000u);
    lab.wire.push(encode(query(false)));
    CHECK_EQ(queries(lab).size(), 1u);
  }
}

TEST("replies that wait have a bound") {
  Names names;
  CheckedLab lab(names.options());
  for (int i = 0; i < 3; i++) lab.engine().send_datagrams(Bytes(2 << 20));
  lab.settle();
  lab.engine().send_datagrams(record(query(false).key, "after"));
  CHECK_EQ(answers(lab).size(), 1u);
  CHECK(lab.counter(Counter::kDroppedDatagrams) >= 1);
}

TEST("where nobody takes queries they are dropped, and where DNS is not caught they are refused") {
  Names names;
  LabOptions deaf = names.options();
  deaf.takes_datagrams = false;
  {
    CheckedLab first(deaf);
    first.wire.push(encode(query(false)));
    first.settle();
    CHECK_EQ(first.counter(Counter::kDroppedDatagrams), 1u);
    CHECK_EQ(first.engine().take_datagrams().size(), 0u);
  }
  CheckedLab second(names.options(false));
  second.wire.push(encode(query(false)));
  auto sent = answers(second);
  REQUIRE(sent.size() == 1);
  CHECK_EQ(sent[0].kind, FromEngine::Kind::kIcmp);
  CHECK_EQ(queries(second).size(), 0u);
}

TEST("a query to an address left out of the range is one; to an address for a name it is refused") {
  Names names;
  CheckedLab lab(names.options());
  for (const char* address : {"198.18.0.9", "198.19.255.255", "fd70:7670:6e00:1::"}) {
    lab.wire.push(encode(to(address, 53)));
    CHECK_EQ(queries(lab).size(), 1u);
  }
  for (const char* address : {lab::kSlot0, lab::kSlot1, lab::kSlot0v6}) {
    lab.wire.push(encode(to(address, 53)));
    CHECK_EQ(queries(lab).size(), 0u);
    CHECK_EQ(answers(lab).size(), 1u);
  }
}

TEST("other UDP gets port unreachable, with the packet quoted, whether there are names or not") {
  Names names;
  for (bool has_names : {false, true}) {
    for (bool is_v6 : kBothFamilies) {
      CheckedLab lab(has_names ? names.options() : LabOptions{});
      for (const char* address : is_v6 ? std::vector{"2001:db8:7::5", lab::kSlot0v6}
                                       : std::vector{"203.0.113.5", lab::kSlot0}) {
        for (size_t length : {0, 1, 100, 1200, 1440}) {
          Bytes packet = encode(to(address, 443, std::string(length, 'q')));
          lab.wire.push(packet);
          auto sent = answers(lab);
          REQUIRE(sent.size() == 1);
          CHECK_EQ(sent[0].kind, FromEngine::Kind::kIcmp);
          CHECK_EQ(sent[0].icmp_type, is_v6 ? 1 : 3);
          CHECK_EQ(sent[0].icmp_code, is_v6 ? 4 : 3);
          CHECK_EQ(sent[0].segment.key.app_port, htons(40000));
          Bytes quoted = without_vnet(packet);
          quoted.resize(std::min<size_t>(quoted.size(), is_v6 ? 1280 - 48 : 576 - 28));
          CHECK_EQ(sent[0].quoted, quoted);
        }
      }
      CHECK_EQ(lab.counter(Counter::kRefusedDatagrams), 10u);
    }
  }
}

TEST("an echo request to the virtual range is refused, others get no answer") {
  Names names;
  struct Case {
    const char* address;
    uint8_t type;
    bool is_answered;
  };
  for (const Case& c :
       {Case{lab::kSlot1, 8, true}, Case{lab::kSlot0v6, 128, true}, Case{"198.18.0.5", 8, true},
        Case{"203.0.113.5", 8, false}, Case{"2001:db8:7::5", 128, false},
        // Errors, replies, and what routers and neighbours say.
        Case{lab::kSlot1, 3, false}, Case{lab::kSlot1, 0, false}, Case{lab::kSlot1, 13, false},
        Case{lab::kSlot0v6, 1, false}, Case{lab::kSlot0v6, 135, false},
        Case{lab::kSlot0v6, 143, false}}) {
    CheckedLab lab(names.options());
    Bytes packet = encode(to(c.address, 0x0800));
    bool is_v6 = strchr(c.address, ':') != nullptr;
    packet[kVnetBytes + (is_v6 ? 6 : 9)] = is_v6 ? 58 : 1;
    packet[kVnetBytes + (is_v6 ? 40 : 20)] = c.type;
    lab.wire.push(packet);
    CHECK_EQ(answers(lab).size(), c.is_answered ? 1u : 0u);
  }
}

TEST("nothing answers multicast, broadcast, or who has no address") {
  Names names;
  for (uint16_t port : {uint16_t{53}, uint16_t{443}}) {
    for (const char* address :
         {"224.0.0.251", "255.255.255.255", "239.1.1.1", "0.0.0.0", "ff02::fb", "::"}) {
      CheckedLab lab(names.options());
      lab.wire.push(encode(to(address, port)));
      CHECK_EQ(answers(lab).size(), 0u);
      CHECK_EQ(queries(lab).size(), 0u);
      CHECK_EQ(lab.counter(Counter::kIgnoredPackets), 1u);
    }
    for (const char* address :
         {"0.0.0.0", "224.0.0.1", "255.255.255.255", "127.0.0.1", "::", "ff02::1"}) {
      CheckedLab lab(names.options());
      auto datagram = query(strchr(address, ':') != nullptr, "x", port);
      lab::set_address(datagram.key.app, address);
      lab.wire.push(encode(datagram));
      CHECK_EQ(answers(lab).size(), 0u);
      CHECK_EQ(queries(lab).size(), 0u);
    }
  }
}

TEST("ICMP errors have a bound per second") {
  Names names;
  CheckedLab lab(names.options());
  for (int i = 0; i < 3000; i++) lab.wire.push(encode(to("203.0.113.5", 443)));
  CHECK_EQ(answers(lab).size(), 1000u);
  CHECK_EQ(lab.counter(Counter::kIgnoredPackets), 2000u);
  lab.advance(1000);
  lab.wire.push(encode(to("203.0.113.5", 443)));
  CHECK_EQ(answers(lab).size(), 1u);
}

TEST("a wrong checksum is no datagram; none at all is one over IPv4 only") {
  Names names;
  for (bool is_v6 : kBothFamilies) {
    CheckedLab lab(names.options());
    size_t udp = kVnetBytes + (is_v6 ? 40 : 20);
    for (size_t bit = 0; bit < 8 * 16; bit++) {
      Bytes packet = encode(query(is_v6), false);
      packet[udp + bit / 8] = static_cast<uint8_t>(packet[udp + bit / 8] ^ 1u << bit % 8);
      lab.wire.push(packet);
      CHECK_EQ(queries(lab).size(), 0u);
    }
    Bytes unsummed = encode(query(is_v6), false);
    unsummed[udp + 6] = unsummed[udp + 7] = 0;
    lab.wire.push(unsummed);
    CHECK_EQ(queries(lab).size(), is_v6 ? 0u : 1u);
    // What the device vouches for is not summed up again.
    Bytes valid = encode(query(is_v6), false);
    valid[0] = tun::kVnetDataValid;
    valid[udp + 6] ^= 1;
    lab.wire.push(valid);
    CHECK_EQ(queries(lab).size(), 1u);
  }
}

TEST("a query larger than any is dropped, the largest is not") {
  Names names;
  CheckedLab lab(names.options());
  lab.wire.push(encode(query(false, std::string(4096, 'x'))));
  lab.wire.push(encode(query(false, std::string(4097, 'x'))));
  lab.wire.push(encode(query(true, std::string(60'000, 'x'))));
  lab.wire.push(encode(query(true, "")));
  CHECK_EQ(queries(lab).size(), 2u);
  CHECK_EQ(lab.counter(Counter::kDroppedDatagrams), 2u);
}

TEST("lengths that lie, cut packets, fragments and other protocols are never datagrams") {
  for (bool is_v6 : kBothFamilies) {
    const Bytes whole = without_vnet(encode(query(is_v6)));
    const size_t udp = is_v6 ? 40 : 20;
    auto parse = [](Bytes packet) {
      packet.shrink_to_fit();  // so that the sanitizer sees a read behind the end
      DatagramView view;
      return wire::parse_datagram(packet, view);
    };
    CHECK_EQ(parse(whole), DatagramVerdict::kUdp);
    for (size_t length = 0; length < whole.size(); length++) {
      Bytes cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length));
      CHECK_EQ(parse(cut), DatagramVerdict::kMalformed);
    }
    auto with = [&](size_t at, uint32_t value) {
      Bytes packet = whole;
      packet[at] = static_cast<uint8_t>(value >> 8);
      packet[at + 1] = static_cast<uint8_t>(value);
      return parse(packet);
    };
    for (uint32_t length : {0, 1, 7, 17, 100, 65535})
      CHECK_EQ(with(udp + 4, length), DatagramVerdict::kMalformed);
    CHECK_EQ(with(udp + 4, 12), DatagramVerdict::kUdp);  // padded behind its end
    CHECK_EQ(with(udp + 2, 0), DatagramVerdict::kMalformed);
    if (is_v6) {
      for (uint32_t next : {0, 43, 44, 60, 51, 59, 132, 255}) {
        Bytes packet = whole;
        packet[6] = static_cast<uint8_t>(next);
        CHECK_EQ(parse(packet), DatagramVerdict::kOther);
      }
      CHECK_EQ(with(4, 65535), DatagramVerdict::kMalformed);
    } else {
      for (uint32_t fragment : {0x2000, 0x2001, 0x0001, 0x1fff})
        CHECK_EQ(with(6, fragment), DatagramVerdict::kOther);
      CHECK_EQ(with(2, 65535), DatagramVerdict::kMalformed);
      CHECK_EQ(with(2, 19), DatagramVerdict::kMalformed);
      for (uint32_t first : {0x44, 0x4f, 0x05, 0x50, 0x60}) {
        Bytes packet = whole;
        packet[0] = static_cast<uint8_t>(first);
        CHECK(parse(packet) != DatagramVerdict::kUdp);
      }
      Bytes options = whole;  // twenty bytes of them
      options[0] = 0x4a;
      options.insert(options.begin() + 20, 20, 1);
      options[3] = static_cast<uint8_t>(options[3] + 20);
      CHECK_EQ(parse(options), DatagramVerdict::kUdp);
    }
  }
}

TEST("a device that takes no packet loses replies and errors, and nothing else") {
  Names names;
  CheckedLab lab(names.options());
  lab.wire.write_error = EAGAIN;
  lab.wire.refused_writes = 2;
  lab.engine().send_datagrams(record(query(false).key, "lost"));
  lab.wire.push(encode(to("203.0.113.5", 443)));
  CHECK_EQ(answers(lab).size(), 0u);
  lab.engine().send_datagrams(record(query(false).key, "kept"));
  CHECK_EQ(answers(lab).size(), 1u);
  CHECK_EQ(lab.counter(Counter::kDroppedDatagrams), 1u);
}
