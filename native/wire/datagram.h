// What is not TCP, from the TUN device: UDP datagrams as checked views, UDP packets that we write,
// and the ICMP error that says "nobody listens here".
#pragma once
#include <cstdint>
#include <span>

#include "wire/flow_key.h"

namespace wire {

/// A whole UDP datagram inside a packet, or the addresses of an echo request. Borrows from the
/// packet.
struct DatagramView {
  FlowKey key;                   // `app` sent it; ports are 0 in an echo request
  std::span<const uint8_t> udp;  // header and payload, as long as the header says
  std::span<const uint8_t> payload;
};

enum class DatagramVerdict {
  kUdp,
  kEcho,       // ICMP or ICMPv6 echo request
  kOther,      // fragments, other ICMP, other protocols, IPv6 extension headers
  kMalformed,  // lengths that contradict each other
};

/// Checks every length before anything else looks at the packet. To be asked about packets that
/// parse_packet() calls kNotTcp, but safe for any.
DatagramVerdict parse_datagram(std::span<const uint8_t> packet, DatagramView& out);

/// RFC 768: 0 is "none" over IPv4. RFC 8200 section 8.1: over IPv6 it is an error.
bool udp_checksum_is_right(const DatagramView& datagram);

/// False where RFC 1122 section 3.2.2 and RFC 4443 section 2.4 (e) forbid an ICMP error, as to
/// multicast, and where no answer of any kind has a place to go.
bool may_be_answered(const FlowKey& key);

/// Headers in front of the payload of a UDP packet.
constexpr size_t udp_headers_bytes(bool is_v6) { return (is_v6 ? 40 : 20) + 8; }

/// Writes IP and UDP headers, checksum included, for a payload that follows elsewhere, from
/// `key.destination` to `key.app`. @return bytes written, udp_headers_bytes()
size_t put_udp_reply_headers(uint8_t* out, const FlowKey& key, std::span<const uint8_t> payload);

/// RFC 4443 section 2.4 (c); for IPv4 RFC 1812 section 4.3.2.3 asks for 576 at most.
constexpr size_t kMaxUnreachableBytes = 1280;

/// An ICMP or ICMPv6 "port unreachable" that answers `packet` (without virtio-net header), quoting
/// it. @param out at least kMaxUnreachableBytes @return its bytes
size_t put_port_unreachable(std::span<uint8_t> out, const FlowKey& key,
                            std::span<const uint8_t> packet);

}  // namespace wire
