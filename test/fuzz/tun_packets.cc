// Fuzzes one packet from the device: through the parser in memory of just its size, then through
// the whole engine, where one flow relays and one SYN is held.
//
// Input: a byte of bits, then the packet with its virtio-net header.
//   1  the sequence numbers count from those of the relaying flow, so that they are in its window
//   2  the addresses and ports are the relaying flow's
//   4  the addresses and ports are the held SYN's
//   8  the checksum is left to the device
#include <cstring>
#include <memory>

#include "base/bytes.h"
#include "fixed_random.h"
#include "input.h"
#include "lab.h"
#include "wire/packet.h"

namespace {

constexpr size_t kVnetBytes = 10;

void parse_alone(std::span<const uint8_t> packet) {
  if (packet.size() < kVnetBytes) return;
  std::span<const uint8_t> ip = packet.subspan(kVnetBytes);
  auto copy = std::make_unique<uint8_t[]>(ip.size());
  if (!ip.empty()) memcpy(copy.get(), ip.data(), ip.size());
  wire::SegmentView s;
  if (wire::parse_packet({copy.get(), ip.size()}, s) != wire::Verdict::kTcp) return;
  fuzz::insist(s.tcp >= copy.get() && s.tcp + s.length <= copy.get() + ip.size(),
               "a segment lies inside its packet");
  fuzz::insist(s.header_bytes >= 20 && s.header_bytes + s.payload_bytes == s.length,
               "header and payload make up the segment");
  wire::mss_option(s);
  wire::set_mss_option(s, 65495);
  wire::tcp_checksum_is_right(s);
}

void add_be32(uint8_t* p, uint32_t base) { base::store_be32(p, base::load_be32(p) + base); }

// Makes the packet one of `app`'s, as far as it is long enough.
void aim(lab::Bytes& packet, const lab::AppTcp& app, bool at_tuple, bool at_numbers) {
  if (packet.size() < kVnetBytes + 40) return;
  uint8_t* ip = packet.data() + kVnetBytes;
  if (ip[0] >> 4 != 4) return;
  size_t header = (ip[0] & 15u) * 4;
  if (header + 20 > packet.size() - kVnetBytes) return;
  if (at_tuple) {
    memcpy(ip + 12, app.key().app, 4);
    memcpy(ip + 16, app.key().destination, 4);
    memcpy(ip + header, &app.key().app_port, 2);
    memcpy(ip + header + 2, &app.key().destination_port, 2);
  }
  if (at_numbers) {
    add_be32(ip + header + 4, app.snd_nxt());
    add_be32(ip + header + 8, app.rcv_nxt());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  base::fixed_random_state = 1;
  fuzz::Input input({data, size});
  uint8_t bits = input.u8();
  auto rest = input.rest();
  parse_alone(rest);

  lab::Lab lab;
  auto pair = lab.open();
  lab::AppTcp& held = lab.apps.connect();
  lab.settle();
  fuzz::insist(static_cast<bool>(pair), "a flow opens");
  pair.proxy->send("some data on its way");

  lab::Bytes packet(rest.begin(), rest.end());
  if (bits & 6) aim(packet, bits & 2 ? *pair.app : held, true, bits & 1);
  if ((bits & 8) && !packet.empty()) packet[0] = tun::kVnetNeedsChecksum;
  lab.wire.push(packet);
  lab.settle();
  lab.advance(300);
  fuzz::insist(lab.apps.broken_packets == 0, "every packet of ours is sound");
  fuzz::insist(lab.stats().active <= 3, "one packet makes at most one flow");
  lab.destroy_engine();
  return 0;
}
