// IP packets from the TUN device as checked views; packets that we write without TCP.
#pragma once
#include <array>
#include <cstdint>
#include <span>

#include "wire/flow_key.h"

namespace wire {

enum TcpFlag : uint8_t { kFin = 1, kSyn = 2, kRst = 4, kPsh = 8, kAck = 16 };

/// A whole TCP segment inside a packet. Pointers borrow from the packet.
struct SegmentView {
  FlowKey key;
  uint8_t* tcp = nullptr;     // TCP header
  uint32_t length = 0;        // bytes, TCP header and data
  uint32_t header_bytes = 0;  // of TCP, with options
  uint32_t payload_bytes = 0;
  uint32_t seq = 0;
  uint32_t ack = 0;
  uint8_t flags = 0;
};

enum class Verdict {
  kTcp,
  kNotTcp,     // UDP, ICMP, fragments: not ours to carry
  kMalformed,  // lengths that contradict each other, options that lie
};

/// Checks every length and TCP option (RFC 9293 section 3.1) before anything else looks at the
/// segment; lwIP 2.1.3 reads past options that lie about their length.
Verdict parse_packet(std::span<uint8_t> packet, SegmentView& out);

/// True when the TCP checksum of the whole segment is right.
bool tcp_checksum_is_right(const SegmentView& segment);

/// Value of the MSS option, or 0 when the segment has none.
uint16_t mss_option(const SegmentView& segment);

/// Overwrites the MSS option. Nothing happens when there is none.
void set_mss_option(const SegmentView& segment, uint16_t mss);

/// Whether `later` says all that `earlier` says, and more: both are segments of one connection that
/// only acknowledge, and it acknowledges more (RFC 9293 section 3.4: acknowledgements are
/// cumulative). Not so for a repeated one, which means a loss (RFC 5681), and with options.
bool is_later_ack(std::span<const uint8_t> later, std::span<const uint8_t> earlier);

/// Why a connection attempt failed, as an ICMP error says it.
enum class Unreachable { kHost, kNetwork, kProhibited };

struct IcmpPacket {
  std::array<uint8_t, 96> bytes;
  size_t length = 0;
};

/// An ICMP (RFC 792) or ICMPv6 (RFC 4443 section 3.1) destination-unreachable that answers the SYN
/// with sequence number `seq`. Complete with IP header and checksums.
IcmpPacket unreachable_for_syn(const FlowKey& key, uint32_t seq, Unreachable why);

}  // namespace wire
