// Fuzzes one packet from the device: through the parser in memory of just its size, then through
// the whole engine, where one flow relays and one SYN is held.
//
// Input: a byte of bits, then the packet with its virtio-net header.
//   1  the sequence numbers count from those of the relaying flow, so that they are in its window
//   2  the addresses and ports are the relaying flow's
//   4  the addresses and ports are the held SYN's
//   8  the checksum is left to the device
//  16  there are names, one address stands for one, and DNS is caught
//  32  flows tell their names by their first bytes
//  64  the packet goes to the address that stands for a name
// 128  the packet goes to port 53
#include <cstring>
#include <memory>

#include "base/bytes.h"
#include "fixed_random.h"
#include "input.h"
#include "name_lab.h"
#include "wire/datagram.h"
#include "wire/packet.h"

namespace {

constexpr size_t kVnetBytes = 10;

void parse_datagram_alone(std::span<const uint8_t> ip) {
  wire::DatagramView d;
  wire::DatagramVerdict verdict = wire::parse_datagram(ip, d);
  if (verdict == wire::DatagramVerdict::kUdp) {
    fuzz::insist(d.udp.data() >= ip.data() && d.udp.data() + d.udp.size() <= ip.data() + ip.size(),
                 "a datagram lies inside its packet");
    fuzz::insist(d.payload.size() + 8 == d.udp.size(), "header and payload make up the datagram");
    wire::udp_checksum_is_right(d);
  }
  if (verdict != wire::DatagramVerdict::kUdp && verdict != wire::DatagramVerdict::kEcho) return;
  uint8_t error[wire::kMaxUnreachableBytes];
  wire::put_port_unreachable(error, d.key, ip);
}

void parse_alone(std::span<const uint8_t> packet) {
  if (packet.size() < kVnetBytes) return;
  std::span<const uint8_t> ip = packet.subspan(kVnetBytes);
  auto copy = std::make_unique<uint8_t[]>(ip.size());
  if (!ip.empty()) memcpy(copy.get(), ip.data(), ip.size());
  parse_datagram_alone({copy.get(), ip.size()});
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

// Sends the packet to the address that stands for a name, or to port 53, as far as it is long
// enough.
void readdress(lab::Bytes& packet, bool to_name, bool to_dns) {
  if (packet.size() < kVnetBytes + 60) return;
  uint8_t* ip = packet.data() + kVnetBytes;
  bool is_v6 = ip[0] >> 4 == 6;
  size_t header = is_v6 ? 40 : (ip[0] & 15u) * 4;
  if (to_name) {
    uint32_t address[4];
    lab::set_address(address, is_v6 ? lab::kSlot0v6 : lab::kSlot0);
    memcpy(ip + (is_v6 ? 24 : 16), address, is_v6 ? 16 : 4);
  }
  if (to_dns && header + 4 <= packet.size() - kVnetBytes) base::store_be16(ip + header + 2, 53);
}

// Every query is whole records, and gets itself for an answer. So does the input.
void answer_queries(lab::Lab& lab, std::span<const uint8_t> input) {
  std::vector<uint8_t> batch = lab.engine().take_datagrams();
  size_t at = 0;
  while (at + stack::kDatagramRecordBytes <= batch.size()) {
    size_t length = batch[at] | static_cast<size_t>(batch[at + 1]) << 8;
    fuzz::insist(length >= stack::kDatagramRecordBytes, "a record has a head");
    fuzz::insist(batch[at + 2] == 4 || batch[at + 2] == 6, "a record has a family");
    at += length;
  }
  fuzz::insist(at == batch.size(), "a batch is whole records");
  lab.engine().send_datagrams(batch);
  lab.engine().send_datagrams({input.begin(), input.end()});
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  base::fixed_random_state = 1;
  fuzz::Input input({data, size});
  uint8_t bits = input.u8();
  auto rest = input.rest();
  parse_alone(rest);

  lab::Names names;
  names.table->set(0, "www.example.org");
  lab::LabOptions options = bits & 16 ? names.options() : lab::LabOptions{};
  options.engine.relay.sniffs = bits & 32;
  options.engine.relay.is_app_here = [](const wire::FlowKey&) { return true; };
  lab::Lab lab(options);
  auto pair = lab.open();
  lab::AppTcp& held = lab.apps.connect();
  lab.settle();
  fuzz::insist(static_cast<bool>(pair), "a flow opens");
  pair.proxy->send("some data on its way");

  lab::Bytes packet(rest.begin(), rest.end());
  if (bits & 6) aim(packet, bits & 2 ? *pair.app : held, true, bits & 1);
  if ((bits & 8) && !packet.empty()) packet[0] = tun::kVnetNeedsChecksum;
  if (bits & 192) readdress(packet, bits & 64, bits & 128);
  lab.wire.push(packet);
  lab.settle();
  answer_queries(lab, rest);
  lab.advance(300);
  fuzz::insist(lab.apps.broken_packets == 0, "every packet of ours is sound");
  fuzz::insist(lab.stats().active <= 3, "one packet makes at most one flow");
  lab.destroy_engine();
  fuzz::insist(names.flows(0) == 0, "a flow that is over is not counted");
  return 0;
}
