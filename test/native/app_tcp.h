// The application's side of TCP: a small kernel to test against. It retransmits, keeps what comes
// out of order, closes its window when nobody reads, and never shrinks it.
#pragma once
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "app_packet.h"

namespace lab {

struct AppOptions {
  bool is_v6 = false;
  uint16_t port = 0;  // 0: the host picks one
  uint16_t destination_port = 443;
  std::string destination = {};  // empty: the one of make_key()
  std::optional<uint16_t> mss = 1460;
  std::optional<uint8_t> window_scale = 7;
  uint32_t window = 1 << 20;      // receive buffer, bytes
  uint32_t segment_bytes = 1460;  // largest payload of a packet; more than the MSS is TSO
  bool offloads_checksum = true;
  bool delays_ack = false;            // acknowledge every other segment, and after 40 ms
  uint32_t initial_seq = 0xfffffc00;  // so that nearly every test crosses the wrap
};

/// What must never happen to a correct kernel; all zero after every test.
struct AppComplaints {
  uint32_t broken_packets = 0;
  uint32_t bad_resets = 0;      // RST that a kernel would not believe (RFC 5961 section 3)
  uint32_t beyond_window = 0;   // data to the right of what was offered
  uint32_t bad_acks = 0;        // acknowledges what was never sent
  uint32_t shrunk_windows = 0;  // right edge moved left
  uint32_t oversized = 0;       // segments (after GSO) above the MSS
  bool operator==(const AppComplaints&) const = default;
};

class AppTcp {
 public:
  using Transmit = std::function<void(Bytes)>;
  AppTcp(const wire::FlowKey& key, const AppOptions& options, Transmit transmit, uint64_t now_ms);

  // What a program does:
  void connect() { send_syn(); }
  void send(std::span<const uint8_t> data);
  void send(std::string_view text);
  void close();  // FIN behind all data
  void reset();  // RST; the connection is gone without a trace
  void set_reading(bool reads);
  bool is_reading() const { return reads_; }

  // What a program sees:
  bool is_connected = false;
  bool was_refused = false;     // RST instead of SYN-ACK
  bool is_unreachable = false;  // ICMP error instead
  uint8_t icmp_type = 0;
  uint8_t icmp_code = 0;
  bool was_reset = false;
  bool has_eof = false;
  Bytes received;
  std::string received_text() const { return {received.begin(), received.end()}; }

  // What a test looks at:
  const wire::FlowKey& key() const { return key_; }
  bool is_over() const { return is_gone_ || was_reset || was_refused || is_unreachable; }
  bool is_closed() const { return fin_is_acked() && has_eof; }
  bool fin_is_acked() const { return fin_sent_ && snd_una_ == end_seq() + 1; }
  size_t unacked_bytes() const;
  uint32_t peer_window() const { return peer_window_; }
  uint16_t last_window_field = 0;
  uint32_t largest_right_edge() const { return peer_right_edge_; }
  uint32_t packets_received = 0;
  uint32_t acks_received = 0;  // segments without data
  uint32_t data_packets_received = 0;
  uint32_t largest_payload = 0;
  uint32_t retransmissions = 0;
  uint32_t timeouts = 0;  // those for want of any acknowledgement
  TcpSegment syn_ack;
  TcpSegment last;
  TcpSegment last_on_wire;  // heard or not
  AppComplaints complaints;

  uint32_t initial_seq() const { return options_.initial_seq; }
  uint32_t snd_una() const { return snd_una_; }
  uint32_t snd_nxt() const { return snd_nxt_; }
  uint32_t rcv_nxt() const { return rcv_nxt_; }
  /// Any segment of this connection, whatever the state. Data inside the window counts as sent.
  void inject(uint8_t flags, uint32_t seq, uint32_t ack, std::span<const uint8_t> payload = {},
              std::optional<uint16_t> window = {});
  /// Sends nothing on its own from now on, and hears nothing: the cable is cut.
  void set_silent(bool silent) { is_silent_ = silent; }

  // Called by AppHost:
  void on_segment(const TcpSegment& segment, const tun::VnetHeader& vnet);
  void on_icmp(const FromEngine& packet);
  void on_time(uint64_t now_ms);

 private:
  void send_syn();
  void transmit_segment(uint8_t flags, uint32_t seq, std::span<const uint8_t> payload);
  void send_ack();
  void send_reset_for(const TcpSegment& segment);
  void pump();
  void on_syn_ack(const TcpSegment& segment);
  void on_ack(const TcpSegment& segment);
  void on_data(const TcpSegment& segment, const tun::VnetHeader& vnet);
  void on_reset(const TcpSegment& segment);
  void take_in_order();
  void store_out_of_order(uint32_t seq, std::span<const uint8_t> payload);
  uint32_t offered_window();
  uint32_t end_seq() const { return out_base_seq_ + static_cast<uint32_t>(out_.size()); }
  void arm(uint64_t after_ms) { timer_ms_ = now_ms_ + after_ms; }

  wire::FlowKey key_;
  AppOptions options_;
  Transmit transmit_;
  uint64_t now_ms_;
  bool is_gone_ = false;
  bool is_silent_ = false;

  // sending
  Bytes out_;  // from out_base_seq_, which is snd_una_ once connected
  uint32_t out_base_seq_ = 0;
  uint32_t snd_una_ = 0;
  uint32_t snd_nxt_ = 0;
  uint32_t peer_window_ = 0;
  uint32_t window_seq_ = 0;
  uint32_t peer_right_edge_ = 0;
  uint8_t peer_shift_ = 0;
  bool fin_wanted_ = false;
  bool fin_sent_ = false;
  uint32_t injected_end_ = 0;
  uint32_t duplicate_acks_ = 0;
  uint64_t timer_ms_ = 0;  // 0: none
  uint64_t backoff_ms_ = 0;

  // receiving
  bool reads_ = true;
  uint32_t unread_ = 0;
  uint32_t rcv_nxt_ = 0;
  uint32_t right_edge_ = 0;
  std::map<uint32_t, Bytes> out_of_order_;  // by sequence number
  std::optional<uint32_t> fin_seq_;
  uint64_t ack_due_ms_ = 0;
  bool ack_is_owed_ = false;
};

/// All connections of the application's host, and what came for none of them.
class AppHost {
 public:
  explicit AppHost(Wire& wire) : wire_(wire) {}

  /// Makes a connection and sends its SYN. The reference stays good as long as the host does.
  AppTcp& connect(const AppOptions& options = {});
  /// The same without a SYN, for tests that write their own.
  AppTcp& prepare(const AppOptions& options = {});
  /// Takes in what the engine sent. @return packets
  size_t deliver();
  void set_now(uint64_t now_ms);
  uint64_t now_ms() const { return now_ms_; }

  const std::vector<std::unique_ptr<AppTcp>>& all() const { return all_; }
  std::vector<FromEngine> strays;  // for no connection: answers to what a test wrote itself
  uint32_t broken_packets = 0;
  std::string first_problem;
  size_t packets_seen = 0;
  /// Of the packets to the engine, one in so many is doubled, or overtaken by the next.
  uint32_t duplicate_one_in = 0;
  uint32_t swap_one_in = 0;
  /// Between the two hosts, in each direction; what is below the clock's step comes a step late.
  uint64_t one_way_ms = 0;

 private:
  struct Travelling {
    uint64_t due_ms;
    Bytes packet;
  };
  void push(Bytes packet);
  void take(const Bytes& packet);
  void transmit(Bytes packet);
  bool chance(uint32_t one_in);

  Wire& wire_;
  uint64_t now_ms_ = 0;
  uint16_t next_port_ = 40000;
  uint64_t random_ = 88172645463325252ull;
  std::vector<std::unique_ptr<AppTcp>> all_;
  std::map<std::pair<uint32_t, uint16_t>, AppTcp*> by_port_;  // family and port
  Bytes held_back_;
  std::deque<Travelling> to_engine_, from_engine_;
};

/// Bytes that tell where they belong: byte `i` of the stream `seed`.
inline uint8_t pattern_byte(uint32_t seed, uint64_t i) {
  uint64_t x = (i >> 2) * 0x9e3779b97f4a7c15ull + seed;
  return static_cast<uint8_t>((x >> 29 ^ x >> 47) + i);
}
Bytes pattern(uint32_t seed, size_t bytes, uint64_t from = 0);
/// Position of the first wrong byte, or -1.
int64_t first_difference(std::span<const uint8_t> data, uint32_t seed, uint64_t from = 0);

}  // namespace lab
