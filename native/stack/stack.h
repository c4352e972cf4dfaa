// Packets to connections: the table of 4-tuples, held SYNs, TIME_WAIT.
//
// A connection is created by a SYN and stays `kHeld` until its owner (relay/) accepts or refuses
// it; only then does lwIP see the SYN. Segments of a known connection go to the driver, all others
// are answered by RST. The owner allocates connections (so that one allocation serves both) and is
// told when the stack has let go of one.
#pragma once
#include <deque>
#include <vector>

#include "stack/datagrams.h"
#include "stack/neighbours.h"
#include "tcp/lwip_driver.h"

namespace stack {

enum class Phase : uint8_t {
  kHeld,  // SYN waits for the upstream's answer
  kOpen,  // lwIP has, or had, a pcb for it
  kDead,  // out of the table, about to be freed
};

struct Connection : tcp::Endpoint {
  Connection* next_in_bucket = nullptr;
  wire::FlowKey key;
  uint64_t hash = 0;  // of the key
  uint32_t syn_seq = 0;
  uint8_t* syn = nullptr;  // held: TCP header and options
  uint8_t syn_bytes = 0;
  Phase phase = Phase::kHeld;
  uint8_t timers_pending = 0;  // references from time queues; freed when none is left
  bool is_in_table : 1 = false;
  bool is_dirty : 1 = false;  // on the owner's work list
  bool in_time_wait_queue : 1 = false;
};

/// Who decides about connections.
class Owner : public tcp::EndpointSink {
 public:
  /// A SYN for an unknown tuple. Returns a new connection, or null to ignore the SYN (it is
  /// repeated). The stack fills in key and SYN, then calls on_held().
  virtual Connection* new_connection(const wire::FlowKey& key) = 0;
  virtual void on_held(Connection& connection) = 0;
  /// The app took its connection attempt back.
  virtual void on_withdrawn(Connection& connection) = 0;
  /// A segment was processed.
  virtual void on_input(Connection& connection) = 0;
  /// The time in TIME_WAIT is over.
  virtual void on_time_wait_over(Connection& connection) = 0;
};

struct StackStats {
  uint64_t packets_from_app = 0;
  uint64_t malformed = 0;  // what claims to be TCP; the rest is in DatagramStats
  uint64_t bad_checksum = 0;
};

class Stack {
 public:
  /// `neighbours` may be null: the device's only queue.
  Stack(tun::PacketIo& io, Owner& owner, const tcp::DriverOptions& options, Neighbours* neighbours,
        const DatagramOptions& datagram_options);

  /// Reads at most `budget` packets. @return 0 when the device is empty, 1 when there may be more,
  /// -errno when it is gone
  int read_packets(int budget) { return read_from(io_, budget); }
  /// The same of another queue of the device. The flows come in on our own from then on.
  int read_strays(tun::PacketIo& queue, int budget);
  /// A packet that came in on another queue and was passed on.
  void take_packet(std::span<const uint8_t> packet);

  /// Lets lwIP see the held SYN. False when it could not be; the connection is then without a pcb.
  bool accept(Connection& connection);
  /// Answers the held SYN by RST.
  void refuse(Connection& connection);
  /// Answers the held SYN by an ICMP error.
  void refuse_unreachable(Connection& connection, wire::Unreachable why);

  /// Takes the connection out of the table. Its memory stays the owner's.
  void remove(Connection& connection);

  /// To be called when lwIP has moved it to TIME_WAIT.
  void enter_time_wait(Connection& connection);

  void set_now(uint64_t now_ms);
  /// Timers of lwIP and TIME_WAIT.
  void run_timers();
  /// ms until run_timers() is due, -1 when nothing waits.
  int timeout_ms() const;

  tcp::Driver& driver() { return driver_; }
  Datagrams& datagrams() { return datagrams_; }
  const StackStats& stats() const { return stats_; }
  size_t size() const { return count_; }
  /// Connections of which a timer of TCP runs, and those in TIME_WAIT.
  size_t timer_count() const { return driver_.timer_count() + time_wait_.size(); }
  template <class F>
  void for_each(F&& visit) {
    for (Connection* c : buckets_)
      for (; c; c = c->next_in_bucket) visit(*c);
  }

 private:
  int read_from(tun::PacketIo& queue, int budget);
  void handle_packet(size_t bytes);
  void handle_segment(wire::SegmentView& segment, std::span<const uint8_t> packet);
  void hold_syn(wire::SegmentView& segment, uint64_t hash);
  Connection* find(const wire::FlowKey& key, uint64_t hash) const;
  void insert(Connection& connection);
  void drop_syn(Connection& connection);

  tun::PacketIo& io_;
  Owner& owner_;
  Neighbours* neighbours_;
  tcp::Driver driver_;
  Datagrams datagrams_;
  StackStats stats_;
  base::SipKey secret_;
  std::vector<Connection*> buckets_;
  size_t count_ = 0;
  bool is_stray_ = false;  // the packet at hand came in on another queue
  uint64_t now_ms_ = 0;
  uint64_t last_tick_ms_ = 0;
  struct Waiting {
    uint64_t due_ms;
    Connection* connection;
  };
  std::deque<Waiting> time_wait_;
};

}  // namespace stack
