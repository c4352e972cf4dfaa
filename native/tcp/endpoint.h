// One connection of an application, as lwIP sees it, and who is told of it.
#pragma once
#include <cstdint>

struct tcp_pcb;
struct pbuf;

namespace tcp {

struct Endpoint {
  tcp_pcb* pcb = nullptr;  // null before accept() and once lwIP has let go of it
  int32_t armed_at = -1;   // index in the driver's timer list
  uint32_t received_bytes = 0;
  pbuf* received_head = nullptr;  // FIFO of data for the upstream, linked by pbuf::next
  pbuf* received_tail = nullptr;
  uint32_t window_target = 0;  // bytes of receive window this endpoint may hold
  uint32_t window_moved = 0;   // consumed since the target last grew
  uint64_t acked_bytes = 0;    // by the application, of all that was written
  uint16_t peer_mss = 536;     // RFC 9293 section 3.7.1: when the SYN has no option
  bool in_time_wait : 1 = false;
  bool is_established : 1 = false;
  bool app_finished : 1 = false;         // FIN arrived; received_* may still hold data
  bool was_reset : 1 = false;            // ended by RST or given up, not by FINs
  bool takes_large_packets : 1 = false;  // the app is on this host; see packet_writer.h
  bool is_steered : 1 = false;  // the kernel must be told to which queue its packets belong
};

/// Told about endpoints while lwIP runs; must only take note.
class EndpointSink {
 public:
  virtual ~EndpointSink() = default;
  virtual void on_work(Endpoint& endpoint) = 0;
};

}  // namespace tcp
