// Packets from the device: every field may lie.
#include "wire/packet.h"

#include <arpa/inet.h>

#include <cstring>
#include <memory>

#include "app_packet.h"
#include "harness.h"

namespace {

using lab::Bytes;
using wire::SegmentView;
using wire::Verdict;

constexpr size_t kVnetBytes = 10;
constexpr bool kBothFamilies[] = {false, true};

Bytes packet_of(bool is_v6, Bytes options = {}, std::string_view payload = "data",
                uint8_t flags = lab::kAck) {
  lab::TcpSegment s;
  s.key = lab::make_key(is_v6, 40000, 443);
  s.seq = 0x01020304;
  s.ack = 0x05060708;
  s.flags = flags;
  s.window = 512;
  s.options = std::move(options);
  s.payload.assign(payload.begin(), payload.end());
  Bytes packet = encode(s, false);
  packet.erase(packet.begin(), packet.begin() + kVnetBytes);
  return packet;
}

// Parses a copy in memory of just that size, so that ASan sees every read behind its end.
Verdict parse(std::span<const uint8_t> packet, SegmentView* out = nullptr) {
  auto copy = std::make_unique<uint8_t[]>(packet.size());
  if (!packet.empty()) memcpy(copy.get(), packet.data(), packet.size());
  SegmentView view;
  Verdict verdict = wire::parse_packet({copy.get(), packet.size()}, view);
  if (verdict == Verdict::kTcp) {
    CHECK(view.tcp >= copy.get());
    CHECK(view.tcp + view.length <= copy.get() + packet.size());
    CHECK_EQ(view.header_bytes + view.payload_bytes, view.length);
    // Everything that later code reads is inside as well.
    wire::mss_option(view);
    wire::set_mss_option(view, 65495);
    wire::tcp_checksum_is_right(view);
  }
  view.tcp = nullptr;
  if (out) *out = view;
  return verdict;
}

size_t tcp_offset(bool is_v6) { return is_v6 ? 40 : 20; }

}  // namespace

TEST("a sound segment is taken apart into its fields") {
  for (bool is_v6 : kBothFamilies) {
    SegmentView s;
    auto flags = static_cast<uint8_t>(lab::kSyn | lab::kPsh);
    REQUIRE(parse(packet_of(is_v6, lab::mss_option(1460), "payload", flags), &s) == Verdict::kTcp);
    CHECK(s.key == lab::make_key(is_v6, 40000, 443));
    CHECK_EQ(s.seq, 0x01020304u);
    CHECK_EQ(s.ack, 0x05060708u);
    CHECK_EQ(s.flags, flags);
    CHECK_EQ(s.header_bytes, 24u);
    CHECK_EQ(s.payload_bytes, 7u);
    CHECK_EQ(s.length, 31u);
  }
}

TEST("a packet cut off at any byte is malformed") {
  for (bool is_v6 : kBothFamilies) {
    Bytes packet = packet_of(is_v6, lab::mss_option(1460));
    for (size_t n = 0; n < packet.size(); n++)
      CHECK_EQ(parse(std::span(packet).first(n)), Verdict::kMalformed);
  }
}

TEST("bytes behind the IP length are not data") {
  for (bool is_v6 : kBothFamilies) {
    Bytes packet = packet_of(is_v6);
    packet.insert(packet.end(), 40, 0xee);
    SegmentView s;
    REQUIRE(parse(packet, &s) == Verdict::kTcp);
    CHECK_EQ(s.payload_bytes, 4u);
  }
}

TEST("IP versions other than 4 and 6 are malformed") {
  for (int version = 0; version < 16; version++) {
    Bytes packet = packet_of(false);
    packet[0] = static_cast<uint8_t>(version << 4 | 5);
    if (version != 4 && version != 6) CHECK_EQ(parse(packet), Verdict::kMalformed);
  }
}

TEST("an IPv4 header length is believed only where everything fits") {
  for (int words = 0; words < 16; words++) {
    Bytes packet = packet_of(false, {}, std::string(60, 'x'));
    packet[0] = static_cast<uint8_t>(0x40 | words);
    Verdict verdict = parse(packet);
    if (words < 5) CHECK_EQ(verdict, Verdict::kMalformed);
    // Now with a real header of that length in front of the segment.
    if (words < 5) continue;
    Bytes sound = packet_of(false);
    sound.insert(sound.begin() + 20, static_cast<size_t>(words - 5) * 4, 1);
    sound[0] = static_cast<uint8_t>(0x40 | words);
    sound[3] = static_cast<uint8_t>(sound.size());
    SegmentView s;
    CHECK_EQ(parse(sound, &s), Verdict::kTcp);
    CHECK_EQ(s.seq, 0x01020304u);
  }
}

TEST("every IPv4 total length but the right one shortens the segment or is malformed") {
  Bytes packet = packet_of(false);
  for (uint32_t total = 0; total < 65536; total++) {
    packet[2] = static_cast<uint8_t>(total >> 8);
    packet[3] = static_cast<uint8_t>(total);
    SegmentView s;
    Verdict verdict = parse(packet, &s);
    bool fits = total >= 40 && total <= packet.size();
    CHECK_EQ(verdict, fits ? Verdict::kTcp : Verdict::kMalformed);
    if (fits) CHECK_EQ(s.payload_bytes, total - 40);
  }
}

TEST("every IPv6 payload length but the right one shortens the segment or is malformed") {
  Bytes packet = packet_of(true);
  for (uint32_t payload = 0; payload < 65536; payload++) {
    packet[4] = static_cast<uint8_t>(payload >> 8);
    packet[5] = static_cast<uint8_t>(payload);
    bool fits = payload >= 20 && payload + 40 <= packet.size();
    CHECK_EQ(parse(packet), fits ? Verdict::kTcp : Verdict::kMalformed);
  }
}

TEST("a TCP header length is believed only between 20 and the segment's end") {
  for (bool is_v6 : kBothFamilies) {
    for (uint32_t words = 0; words < 16; words++) {
      Bytes packet = packet_of(is_v6, {}, std::string(16, '\1'));  // NOPs, if taken for options
      packet[tcp_offset(is_v6) + 12] = static_cast<uint8_t>(words << 4);
      SegmentView s;
      Verdict verdict = parse(packet, &s);
      bool fits = words >= 5 && words * 4 <= 36;
      CHECK_EQ(verdict, fits ? Verdict::kTcp : Verdict::kMalformed);
      if (fits) CHECK_EQ(s.payload_bytes, 36 - words * 4);
    }
  }
}

TEST("an option that lies about its length is malformed, at each position and for each length") {
  constexpr size_t kOptionBytes = 40;
  for (uint8_t kind : {2, 3, 4, 5, 8, 253}) {
    for (size_t at = 0; at < kOptionBytes; at++) {
      for (uint32_t length = 0; length < 256; length++) {
        Bytes options(kOptionBytes, 1);
        options[at] = kind;
        if (at + 1 < kOptionBytes) options[at + 1] = static_cast<uint8_t>(length);
        bool is_sound = at + 1 < kOptionBytes && length >= 2 && at + length <= kOptionBytes;
        Bytes packet = packet_of(false, options, "");
        CHECK_EQ(parse(packet), is_sound ? Verdict::kTcp : Verdict::kMalformed);
      }
    }
  }
}

TEST("what stands behind the end of the options is not looked at") {
  CHECK_EQ(parse(packet_of(false, {0, 2, 0, 255})), Verdict::kTcp);
  CHECK_EQ(parse(packet_of(false, {1, 1, 1, 0})), Verdict::kTcp);
  CHECK_EQ(parse(packet_of(false, {1, 1, 0, 2})), Verdict::kTcp);
}

TEST("port 0 is malformed, on either side") {
  for (bool is_v6 : kBothFamilies) {
    for (size_t at : {size_t{0}, size_t{2}}) {
      Bytes packet = packet_of(is_v6);
      packet[tcp_offset(is_v6) + at] = packet[tcp_offset(is_v6) + at + 1] = 0;
      CHECK_EQ(parse(packet), Verdict::kMalformed);
    }
  }
}

TEST("IPv4 fragments are not ours, the don't-fragment flag is") {
  for (uint32_t field = 0; field < 65536; field += 0x0100) {
    for (uint32_t low : {0u, 1u, 185u}) {
      Bytes packet = packet_of(false);
      packet[6] = static_cast<uint8_t>(field >> 8);
      packet[7] = static_cast<uint8_t>(low);
      bool is_fragment = ((field | low) & 0x3fff) != 0;
      CHECK_EQ(parse(packet), is_fragment ? Verdict::kNotTcp : Verdict::kTcp);
    }
  }
}

TEST("protocols other than TCP are not ours, IPv6 extension headers among them") {
  for (uint32_t protocol = 0; protocol < 256; protocol++) {
    Verdict wanted = protocol == 6 ? Verdict::kTcp : Verdict::kNotTcp;
    Bytes v4 = packet_of(false);
    v4[9] = static_cast<uint8_t>(protocol);
    CHECK_EQ(parse(v4), wanted);
    Bytes v6 = packet_of(true);
    v6[6] = static_cast<uint8_t>(protocol);
    CHECK_EQ(parse(v6), wanted);
  }
}

TEST("a right checksum is right, and every flipped bit of segment and addresses is seen") {
  for (bool is_v6 : kBothFamilies) {
    Bytes packet = packet_of(is_v6, lab::mss_option(1460), "odd");
    SegmentView s;
    REQUIRE(wire::parse_packet(packet, s) == Verdict::kTcp);
    CHECK(wire::tcp_checksum_is_right(s));
    size_t first = is_v6 ? 8 : 12;  // source address
    for (size_t bit = first * 8; bit < packet.size() * 8; bit++) {
      Bytes broken = packet;
      broken[bit / 8] = static_cast<uint8_t>(broken[bit / 8] ^ (1 << bit % 8));
      // Flips in the length nibble may be malformed instead, which is as good.
      if (wire::parse_packet(broken, s) == Verdict::kTcp) CHECK(!wire::tcp_checksum_is_right(s));
    }
  }
}

TEST("the MSS option is found wherever it stands, and only when it is one") {
  const struct {
    Bytes options;
    uint16_t mss;
  } kCases[] = {
      {{}, 0},
      {{2, 4, 0x05, 0xb4}, 1460},
      {{1, 2, 4, 0x05, 0xb4, 0, 0, 0}, 1460},
      {{4, 2, 1, 1, 2, 4, 0xff, 0xd7}, 65495},
      {{8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 2, 4, 0x02, 0x18, 0, 0}, 536},
      {{2, 4, 0x01, 0x00, 2, 4, 0x05, 0xb4}, 256},  // the first one counts
      {{2, 3, 9, 1}, 0},
      {{2, 6, 1, 2, 3, 4, 1, 1}, 0},
      {{2, 2, 1, 1}, 0},
      {{0, 2, 4, 0x05, 0xb4, 0, 0, 0}, 0},    // behind the end
      {{254, 6, 2, 4, 0x05, 0xb4, 1, 1}, 0},  // inside another option
  };
  for (const auto& c : kCases) {
    Bytes packet = packet_of(false, c.options);
    SegmentView s;
    REQUIRE(wire::parse_packet(packet, s) == Verdict::kTcp);
    CHECK_EQ(wire::mss_option(s), c.mss);
  }
}

TEST("rewriting the MSS option changes its two bytes and nothing else") {
  for (size_t nops = 0; nops <= 36; nops++) {
    Bytes options = lab::joined({Bytes(nops, 1), lab::mss_option(1460)});
    Bytes packet = packet_of(true, options);
    Bytes before = packet;
    SegmentView s;
    REQUIRE(wire::parse_packet(packet, s) == Verdict::kTcp);
    wire::set_mss_option(s, 65495);
    CHECK_EQ(wire::mss_option(s), 65495);
    size_t at = tcp_offset(true) + 20 + nops + 2;
    before[at] = 0xff;
    before[at + 1] = 0xd7;
    CHECK(packet == before);
  }
}

TEST("rewriting the MSS where there is none changes nothing") {
  Bytes packet = packet_of(false, {4, 2, 1, 1});
  Bytes before = packet;
  SegmentView s;
  REQUIRE(wire::parse_packet(packet, s) == Verdict::kTcp);
  wire::set_mss_option(s, 65495);
  CHECK(packet == before);
}

namespace {

Bytes from_hex(std::string_view text) {
  Bytes out;
  auto digit = [](char c) { return c <= '9' ? c - '0' : c - 'a' + 10; };
  for (size_t i = 0; i + 1 < text.size(); i += 2)
    out.push_back(static_cast<uint8_t>(digit(text[i]) << 4 | digit(text[i + 1])));
  return out;
}

// Made by another program from RFC 792 and RFC 4443, and read back by tcpdump -vv, which found all
// checksums right.
constexpr std::string_view kQuoted4 = "450000280000000040067cc0c000020acb0071059c4001bb01020304";
constexpr std::string_view kQuoted6 =
    "600000000014064020010db800000000000000000000001020010db8000700000000000000000005"
    "9c4001bb01020304";
constexpr std::string_view kHeader4 = "450000380000000040017cb5cb007105c000020a";
constexpr std::string_view kHeader6 =
    "6000000000383a4020010db800070000000000000000000520010db8000000000000000000000010";

}  // namespace

TEST("ICMP errors are byte for byte what another program makes") {
  const struct {
    wire::Unreachable why;
    std::string_view icmp4, icmp6;  // type, code, checksum, unused
  } kCases[] = {
      {wire::Unreachable::kHost, "03015afd00000000", "01033f1800000000"},
      {wire::Unreachable::kNetwork, "03005afe00000000", "01003f1b00000000"},
      {wire::Unreachable::kProhibited, "030d5af100000000", "01013f1a00000000"},
  };
  for (const auto& c : kCases) {
    auto p = wire::unreachable_for_syn(lab::make_key(false, 40000, 443), 0x01020304, c.why);
    Bytes wanted = lab::joined({from_hex(kHeader4), from_hex(c.icmp4), from_hex(kQuoted4)});
    CHECK_EQ(Bytes(p.bytes.begin(), p.bytes.begin() + static_cast<std::ptrdiff_t>(p.length)),
             wanted);
    p = wire::unreachable_for_syn(lab::make_key(true, 40000, 443), 0x01020304, c.why);
    wanted = lab::joined({from_hex(kHeader6), from_hex(c.icmp6), from_hex(kQuoted6)});
    CHECK_EQ(Bytes(p.bytes.begin(), p.bytes.begin() + static_cast<std::ptrdiff_t>(p.length)),
             wanted);
  }
}

TEST("keys that differ in any one field are different, and hash differently") {
  base::SipKey secret{1, 2};
  wire::FlowKey a = lab::make_key(true, 40000, 443);
  for (size_t byte = 0; byte < sizeof a; byte++) {
    wire::FlowKey b = a;
    reinterpret_cast<uint8_t*>(&b)[byte] ^= 1;
    CHECK(!(a == b));
    CHECK(wire::hash_of(secret, a) != wire::hash_of(secret, b));
  }
}

TEST("SipHash-2-4 of eight bytes is what its authors' test vectors say") {
  base::SipKey key{0x0706050403020100ull, 0x0f0e0d0c0b0a0908ull};
  uint64_t word = 0x0706050403020100ull;
  CHECK_EQ(base::siphash(key, &word, 1), 0x93f5f5799a932462ull);
}

namespace {

/// A segment of a connection without data and options.
Bytes bare(bool is_v6, uint32_t ack, uint8_t flags = lab::kAck, uint32_t seq = 7,
           uint16_t port = 40000, uint16_t window = 512) {
  lab::TcpSegment s;
  s.key = lab::make_key(is_v6, port, 443);
  s.seq = seq;
  s.ack = ack;
  s.flags = flags;
  s.window = window;
  Bytes packet = encode(s, false);
  packet.erase(packet.begin(), packet.begin() + kVnetBytes);
  return packet;
}

}  // namespace

TEST("an acknowledgement of more says all that an earlier one says") {
  for (bool is_v6 : kBothFamilies) {
    CHECK(wire::is_later_ack(bare(is_v6, 2000), bare(is_v6, 1000)));
    CHECK(wire::is_later_ack(bare(is_v6, 5), bare(is_v6, 0xfffffff0)));  // across the wrap
    CHECK(wire::is_later_ack(bare(is_v6, 2000, lab::kAck, 7, 40000, 0), bare(is_v6, 1000)));
  }
}

TEST("one that repeats, says less, or says something else is needed beside it") {
  for (bool is_v6 : kBothFamilies) {
    Bytes earlier = bare(is_v6, 1000);
    CHECK(!wire::is_later_ack(bare(is_v6, 1000), earlier));  // a loss, or a window
    CHECK(!wire::is_later_ack(bare(is_v6, 999), earlier));
    CHECK(!wire::is_later_ack(bare(is_v6, 2000, lab::kAck | lab::kFin), earlier));
    CHECK(!wire::is_later_ack(bare(is_v6, 2000, lab::kAck | lab::kPsh), earlier));
    CHECK(!wire::is_later_ack(bare(is_v6, 2000), bare(is_v6, 1000, lab::kAck | lab::kFin)));
    CHECK(!wire::is_later_ack(bare(is_v6, 2000, lab::kAck, 8), earlier));  // data lies between
    CHECK(!wire::is_later_ack(bare(is_v6, 2000, lab::kAck, 7, 40001), earlier));
    CHECK(!wire::is_later_ack(bare(!is_v6, 2000), earlier));
    CHECK(!wire::is_later_ack(packet_of(is_v6), packet_of(is_v6)));  // with data
    for (size_t cut = 0; cut < earlier.size(); cut++) {
      Bytes later = bare(is_v6, 2000);
      later.resize(cut);
      Bytes short_one = earlier;
      short_one.resize(cut);
      CHECK(!wire::is_later_ack(later, short_one));
    }
  }
}
