// The only face of lwIP: everything above sees endpoints, bytes and flags.
//
// Theory of operation
// -------------------
// lwIP keeps its connections (pcbs) in global lists and walks them for every packet and timer. Here
// no pcb ever stays in those lists. Around each call into lwIP (`enter` ... `leave`) the list heads
// hold just the one pcb concerned; what is left in them afterwards tells whether it is alive, in
// TIME_WAIT, or freed. So every look-up inside lwIP is O(1), whatever the number of connections,
// and lwIP itself is unmodified. Calls never nest: callbacks only note what happened and put the
// endpoint on the sink's work list; the work follows after `leave`.
//
// Any destination is accepted: the exported `ip_data` is filled by hand and tcp_input() called
// directly, and the one listener is linked only while a held SYN is fed.
//
// lwIP has global state, so there is one Driver per loaded copy of this code, on one thread.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "tcp/endpoint.h"
#include "tcp/large_packet_watch.h"
#include "tcp/packet_writer.h"
#include "tcp/receive_windows.h"
#include "tun/packet_io.h"
#include "wire/packet.h"

namespace tcp {

struct DriverOptions {
  uint32_t mtu = 1500;
  uint32_t congestion_window =
      14 * 65495;  // bytes in flight to the app: two of the largest packets
  ReceiveWindows::Limits windows;
};

struct DriverStats {
  uint64_t resets_sent = 0;
  uint64_t stall_splits = 0;
  uint64_t timeouts = 0;  // what was sent again for want of an acknowledgement
  uint64_t given_up = 0;  // no acknowledgement for too long
};

class Driver {
 public:
  Driver(tun::PacketIo& io, EndpointSink& sink, const DriverOptions& options);
  ~Driver();
  Driver(const Driver&) = delete;
  Driver& operator=(const Driver&) = delete;

  void set_now(uint64_t now_ms);

  /// Where the next packet is to be read: a header and the packet. Valid until input().
  std::span<uint8_t> read_buffer();

  /// Hands a segment in read_buffer() to its endpoint. May keep the buffer.
  void input(Endpoint& endpoint, wire::SegmentView& segment);

  /// Feeds the held SYN: the handshake goes on. False when lwIP could not (memory).
  /// `syn` is TCP header and options; borrowed for the call.
  bool accept(Endpoint& endpoint, const wire::FlowKey& key, std::span<uint8_t> syn);

  /// Answers a segment without connection by a RST (RFC 9293 section 3.10.7.1).
  void reset_unknown(wire::SegmentView& segment);
  /// Answers a held SYN by a RST.
  void reset_syn(const wire::FlowKey& key, uint32_t seq);

  // --- towards the app ---
  /// Bytes that may be written now, given `cap` bytes of unacknowledged data.
  uint32_t send_room(const Endpoint& endpoint, uint32_t cap) const;
  /// Bytes written but not yet sent, for want of the app's window.
  uint32_t unsent_bytes(const Endpoint& endpoint) const;
  /// Largest write that lwIP sends as one packet.
  uint32_t preferred_write(const Endpoint& endpoint) const;
  /// Queues at most 65535 bytes. With `copy` the caller's buffer is free at once, else it must live
  /// until acked_bytes passes its end. False when lwIP is out of memory.
  bool write(Endpoint& endpoint, const uint8_t* data, uint32_t length, bool copy);
  void flush(Endpoint& endpoint);
  /// Whether writes that are flushed together may travel together.
  bool sends_large_packets(const Endpoint& endpoint) const {
    return endpoint.takes_large_packets && writer_.takes_large_packets();
  }
  /// Queues a FIN as soon as that is safe. @return true once it is queued
  bool finish(Endpoint& endpoint);
  /// RST to the app. The endpoint's pcb is gone afterwards.
  void abort(Endpoint& endpoint);
  /// Forgets a TIME_WAIT endpoint without a word.
  void forget(Endpoint& endpoint);
  /// A keepalive probe. @return probes not answered so far
  uint32_t probe(Endpoint& endpoint);

  // --- from the app ---
  /// `length` bytes at the head of received_* were taken: frees them and opens the window.
  void consumed(Endpoint& endpoint, uint32_t length);
  void drop_received(Endpoint& endpoint);
  bool wants_ack(const Endpoint& endpoint) const;
  void ack_now(Endpoint& endpoint);

  // --- time ---
  /// Retransmission, delayed ACK, persist. Call every tick_ms() while has_timers().
  void tick(uint32_t elapsed_ticks);
  bool has_timers() const { return !armed_.empty(); }
  size_t timer_count() const { return armed_.size(); }
  static uint32_t tick_ms();

  const DriverStats& stats() const { return stats_; }
  /// Writes the packets that wait for each other. Call it after every batch of work.
  void submit_packets() { writer_.submit(); }
  const WriterStats& writer_stats() const { return writer_.stats(); }
  uint64_t receive_buffer_bytes() const;
  /// Gives packet buffers back to the kernel that were idle since the last call. Once a second.
  void trim_buffers();
  bool has_surplus_buffers() const;
  uint64_t promised_bytes() const { return windows_.promised_bytes(); }

 private:
  friend struct DriverCallbacks;
  void enter(Endpoint& endpoint);
  void leave(Endpoint& endpoint);
  void rearm(Endpoint& endpoint);
  void disarm(Endpoint& endpoint);
  void after_input(Endpoint& endpoint);
  void check_given_up();

  PacketWriter writer_;
  EndpointSink& sink_;
  DriverOptions options_;
  ReceiveWindows windows_;
  DriverStats stats_;
  LargePacketWatch large_packets_;
  std::vector<Endpoint*> armed_;
  std::vector<Endpoint*> snapshot_;
  bool slow_phase_ = false;
};

}  // namespace tcp
