// The application's side of TCP: a small kernel to test against.
#include "app_tcp.h"

#include <arpa/inet.h>

#include <algorithm>
#include <utility>

namespace lab {
namespace {

constexpr uint64_t kSynRetryMs = 1000;  // RFC 6298 section 2
constexpr uint64_t kRetryMs = 200;      // Linux: TCP_RTO_MIN
constexpr uint64_t kDelayedAckMs = 40;
constexpr uint32_t kBurst = 64;  // packets sent at a time
constexpr uint64_t kLongestBackoffMs = 60000;

// Sequence numbers wrap: a is to the left of b.
bool before(uint32_t a, uint32_t b) { return static_cast<int32_t>(a - b) < 0; }

}  // namespace

AppTcp::AppTcp(const wire::FlowKey& key, const AppOptions& options, Transmit transmit,
               uint64_t now_ms)
    : key_(key), options_(options), transmit_(std::move(transmit)), now_ms_(now_ms) {
  snd_una_ = options_.initial_seq;
  snd_nxt_ = options_.initial_seq + 1;
  out_base_seq_ = snd_nxt_;
}

// ---- sending ----

void AppTcp::send_syn() {
  TcpSegment s;
  s.key = key_;
  s.seq = options_.initial_seq;
  s.flags = kSyn;
  s.window = static_cast<uint16_t>(std::min(options_.window, 65535u));
  s.options =
      joined({options_.mss ? mss_option(*options_.mss) : Bytes{},
              {4, 2, 1, 1},  // SACK permitted
              options_.window_scale ? window_scale_option(*options_.window_scale) : Bytes{}});
  if (!is_silent_) transmit_(encode(s, options_.offloads_checksum));
  arm(backoff_ms_ = backoff_ms_ ? backoff_ms_ * 2 : kSynRetryMs);
}

// What is offered to the engine; the right edge never moves left (RFC 9293 section 3.8.6).
uint32_t AppTcp::offered_window() {
  uint8_t shift = options_.window_scale && peer_shift_ != 0xff ? *options_.window_scale : 0;
  uint32_t space = options_.window > unread_ ? options_.window - unread_ : 0;
  if (before(rcv_nxt_ + space, right_edge_)) space = right_edge_ - rcv_nxt_;
  // Rounded up while all is read, so that a window below the unit is not none; else down, so that
  // it does not creep.
  uint32_t unit = 1u << shift;
  uint32_t field = std::min((space + (unread_ == 0 ? unit - 1 : 0)) >> shift, 65535u);
  if (before(right_edge_, rcv_nxt_ + (field << shift))) right_edge_ = rcv_nxt_ + (field << shift);
  return field;
}

void AppTcp::transmit_segment(uint8_t flags, uint32_t seq, std::span<const uint8_t> payload) {
  TcpSegment s;
  s.key = key_;
  s.seq = seq;
  s.ack = rcv_nxt_;
  s.flags = flags;
  s.window = static_cast<uint16_t>(offered_window());
  s.payload.assign(payload.begin(), payload.end());
  ack_is_owed_ = false;
  if (!is_silent_) transmit_(encode(s, options_.offloads_checksum));
}

void AppTcp::inject(uint8_t flags, uint32_t seq, uint32_t ack, std::span<const uint8_t> payload,
                    std::optional<uint16_t> window) {
  TcpSegment s;
  s.key = key_;
  s.seq = seq;
  s.ack = ack;
  s.flags = flags;
  s.window = window ? *window : static_cast<uint16_t>(offered_window());
  s.payload.assign(payload.begin(), payload.end());
  auto end = seq + static_cast<uint32_t>(payload.size()) + (flags & kFin ? 1 : 0);
  bool is_inside = !before(peer_right_edge_, seq) && before(injected_end_, end);
  if (is_connected && (flags & kAck) && end != seq && is_inside) injected_end_ = end;
  transmit_(encode(s, options_.offloads_checksum));
}

// What a kernel answers for a connection that it does not have (RFC 9293 section 3.10.7.1).
void AppTcp::send_reset_for(const TcpSegment& s) {
  if (s.flags & kRst) return;
  TcpSegment rst;
  rst.key = key_;
  rst.seq = s.ack;
  rst.flags = kRst;
  transmit_(encode(rst, options_.offloads_checksum));
}

void AppTcp::send_ack() { transmit_segment(kAck, snd_nxt_, {}); }

void AppTcp::send(std::span<const uint8_t> data) {
  out_.insert(out_.end(), data.begin(), data.end());
  pump();
}

void AppTcp::send(std::string_view text) {
  send({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
}

void AppTcp::close() {
  fin_wanted_ = true;
  pump();
}

void AppTcp::reset() {
  if (is_over()) return;
  if (is_connected) transmit_segment(kRst | kAck, snd_nxt_, {});
  is_gone_ = true;
}

size_t AppTcp::unacked_bytes() const { return out_.size(); }

// Sends what the window permits.
void AppTcp::pump() {
  if (!is_connected || is_over()) return;
  uint32_t right_edge = snd_una_ + peer_window_;
  for (uint32_t i = 0; i < kBurst; i++) {
    uint32_t offset = snd_nxt_ - out_base_seq_;
    if (offset >= out_.size() || !before(snd_nxt_, right_edge)) break;
    uint32_t n = std::min({options_.segment_bytes, static_cast<uint32_t>(out_.size()) - offset,
                           right_edge - snd_nxt_});
    bool is_last = offset + n == out_.size();
    bool has_fin = is_last && fin_wanted_;
    auto flags = static_cast<uint8_t>(kAck | (is_last ? kPsh : 0) | (has_fin ? kFin : 0));
    std::span<const uint8_t> payload{out_.data() + offset, n};
    uint32_t seq = snd_nxt_;
    snd_nxt_ += n;
    if (has_fin) {
      snd_nxt_++;
      fin_sent_ = true;
    }
    transmit_segment(flags, seq, payload);
  }
  if (fin_wanted_ && snd_nxt_ == end_seq()) {
    uint32_t seq = snd_nxt_++;
    fin_sent_ = true;
    transmit_segment(kFin | kAck, seq, {});
  }
  bool waits = !out_.empty() || (fin_sent_ && !fin_is_acked());
  if (waits && timer_ms_ == 0) arm(backoff_ms_ = kRetryMs);
}

void AppTcp::on_time(uint64_t now_ms) {
  now_ms_ = now_ms;
  if (is_over()) return;
  if (ack_is_owed_ && now_ms >= ack_due_ms_) send_ack();
  if (timer_ms_ == 0 || now_ms < timer_ms_) return;
  timer_ms_ = 0;
  if (!is_connected) {
    retransmissions++;
    send_syn();
    return;
  }
  uint64_t next = std::min(backoff_ms_ * 2, kLongestBackoffMs);
  if (peer_window_ == 0 && snd_nxt_ == snd_una_) {
    transmit_segment(kAck, snd_una_ - 1, {});  // a window probe, as Linux sends it
  } else if (snd_una_ != snd_nxt_) {
    retransmissions++;
    timeouts++;
    snd_nxt_ = snd_una_;  // go back
    fin_sent_ = fin_sent_ && fin_is_acked();
    pump();
  } else {
    pump();
  }
  bool waits = !out_.empty() || (fin_sent_ && !fin_is_acked());
  if (waits) arm(backoff_ms_ = next);
}

// ---- receiving ----

void AppTcp::on_segment(const TcpSegment& s, const tun::VnetHeader& vnet) {
  last_on_wire = s;
  if (is_silent_) return;
  if (is_over()) return send_reset_for(s);
  packets_received++;
  last = s;
  if (s.flags & kRst) return on_reset(s);
  if (!is_connected) {
    if ((s.flags & (kSyn | kAck)) == (kSyn | kAck)) on_syn_ack(s);
    return;
  }
  if (s.flags & kSyn) return send_ack();  // the SYN-ACK again: ours was lost
  on_ack(s);
  if (s.payload.empty() && !(s.flags & kFin)) {
    acks_received++;
    // A probe (keepalive, or to a shut window) asks for an answer.
    if (before(s.seq, rcv_nxt_)) send_ack();
    return;
  }
  on_data(s, vnet);
}

void AppTcp::on_syn_ack(const TcpSegment& s) {
  if (s.ack != options_.initial_seq + 1) {
    complaints.bad_acks++;
    return;
  }
  syn_ack = s;
  is_connected = true;
  snd_una_ = injected_end_ = s.ack;
  rcv_nxt_ = right_edge_ = s.seq + 1;
  auto shift = option_value(s, 3);
  peer_shift_ = 0xff;  // no scaling either way
  if (options_.window_scale && shift) peer_shift_ = static_cast<uint8_t>(*shift);
  peer_window_ = s.window;  // never scaled in a SYN (RFC 7323 section 2.2)
  window_seq_ = s.seq;
  peer_right_edge_ = snd_una_ + peer_window_;
  last_window_field = s.window;
  timer_ms_ = backoff_ms_ = 0;
  send_ack();
  pump();
}

void AppTcp::on_ack(const TcpSegment& s) {
  if (!(s.flags & kAck)) return;
  last_window_field = s.window;
  if (out_.empty() && before(snd_nxt_, s.ack) && !before(injected_end_, s.ack))
    snd_nxt_ = out_base_seq_ = s.ack;
  if (before(snd_nxt_, s.ack) && before(end_seq() + (fin_wanted_ ? 1 : 0), s.ack)) {
    complaints.bad_acks++;
    return;
  }
  if (before(s.ack, snd_una_)) return;  // old
  uint32_t window = static_cast<uint32_t>(s.window) << (peer_shift_ == 0xff ? 0 : peer_shift_);
  bool is_duplicate_number = s.ack == snd_una_;
  bool is_duplicate = is_duplicate_number && s.payload.empty() && window == peer_window_;
  if (before(snd_una_, s.ack)) {
    uint32_t bytes = std::min(s.ack - out_base_seq_, static_cast<uint32_t>(out_.size()));
    out_.erase(out_.begin(), out_.begin() + bytes);
    out_base_seq_ += bytes;
    snd_una_ = s.ack;
    if (before(snd_nxt_, snd_una_)) snd_nxt_ = snd_una_;
    if (snd_una_ == end_seq() + 1) fin_sent_ = true;
    duplicate_acks_ = 0;
    timer_ms_ = backoff_ms_ = 0;
  }
  // Which of two windows is newer: Linux's rule (net/ipv4/tcp_input.c, tcp_may_update_window).
  bool is_newer = !is_duplicate_number || before(window_seq_, s.seq) || window > peer_window_;
  if (is_newer) {
    peer_window_ = window;
    window_seq_ = s.seq;
  }
  uint32_t right_edge = s.ack + window;
  // Up to one unit of the scale it may move by rounding.
  uint32_t unit = peer_shift_ == 0xff ? 1 : 1u << peer_shift_;
  if (before(right_edge + unit, peer_right_edge_)) complaints.shrunk_windows++;
  if (before(peer_right_edge_, right_edge)) peer_right_edge_ = right_edge;
  if (is_duplicate && snd_una_ != snd_nxt_ && ++duplicate_acks_ == 3 && !out_.empty()) {
    retransmissions++;  // RFC 5681 section 3.2
    uint32_t n = std::min(options_.segment_bytes, static_cast<uint32_t>(out_.size()));
    transmit_segment(kAck, snd_una_, {out_.data(), n});
  }
  pump();
}

void AppTcp::on_reset(const TcpSegment& s) {
  if (!is_connected) {
    bool is_ours = (s.flags & kAck) && s.ack == options_.initial_seq + 1;
    if (!is_ours) {
      complaints.bad_resets++;
      return;
    }
    was_refused = true;
    return;
  }
  // Linux believes only the exact number; others are answered by a challenge (RFC 5961).
  if (s.seq != rcv_nxt_) {
    complaints.bad_resets++;
    send_ack();
    return;
  }
  was_reset = true;
}

void AppTcp::on_icmp(const FromEngine& packet) {
  if (is_connected || is_over()) return;
  if (packet.segment.seq != options_.initial_seq) {
    complaints.bad_resets++;
    return;
  }
  is_unreachable = true;
  icmp_type = packet.icmp_type;
  icmp_code = packet.icmp_code;
}

void AppTcp::store_out_of_order(uint32_t seq, std::span<const uint8_t> payload) {
  Bytes& slot = out_of_order_[seq];
  if (slot.size() < payload.size()) slot.assign(payload.begin(), payload.end());
}

void AppTcp::on_data(const TcpSegment& s, const tun::VnetHeader& vnet) {
  if (!s.payload.empty()) data_packets_received++;
  auto bytes = static_cast<uint32_t>(s.payload.size());
  largest_payload = std::max(largest_payload, bytes);
  uint32_t mss = options_.mss.value_or(536);
  if (vnet.gso_type == tun::kVnetGsoNone ? bytes > mss : vnet.gso_bytes > mss)
    complaints.oversized++;
  uint32_t end = s.seq + bytes;
  uint32_t edge = right_edge_;
  bool is_probe = bytes == 1 && s.seq == edge;  // RFC 9293 section 3.8.6.1
  if (before(edge, end) && !is_probe) complaints.beyond_window++;
  bool was_in_order = !before(rcv_nxt_, s.seq);
  if (s.flags & kFin) fin_seq_ = end;
  if (before(rcv_nxt_, end)) {
    uint32_t usable = before(edge, end) ? (before(s.seq, edge) ? edge - s.seq : 0) : bytes;
    if (usable) store_out_of_order(s.seq, {s.payload.data(), usable});
  }
  take_in_order();
  bool must_ack_now = !options_.delays_ack || !was_in_order || ack_is_owed_ || has_eof;
  if (must_ack_now) return send_ack();
  ack_is_owed_ = true;
  ack_due_ms_ = now_ms_ + kDelayedAckMs;
}

void AppTcp::take_in_order() {
  for (auto it = out_of_order_.begin(); it != out_of_order_.end();) {
    uint32_t seq = it->first;
    auto size = static_cast<uint32_t>(it->second.size());
    if (before(rcv_nxt_, seq)) {
      ++it;
      continue;
    }
    uint32_t skip = rcv_nxt_ - seq;
    if (skip < size) {
      received.insert(received.end(), it->second.begin() + skip, it->second.end());
      rcv_nxt_ += size - skip;
      if (!reads_) unread_ += size - skip;
    }
    out_of_order_.erase(it);
    it = out_of_order_.begin();  // the map is ordered by number, not by place: look again
  }
  if (fin_seq_ && *fin_seq_ == rcv_nxt_ && !has_eof) {
    has_eof = true;
    rcv_nxt_++;
  }
}

void AppTcp::set_reading(bool reads) {
  reads_ = reads;
  if (!reads || unread_ == 0) return;
  unread_ = 0;
  if (is_connected && !is_over()) send_ack();
}

// ---- the host ----

AppTcp& AppHost::prepare(const AppOptions& options) {
  AppOptions o = options;
  if (o.port == 0) o.port = next_port_++;
  wire::FlowKey key = make_key(o.is_v6, o.port, o.destination_port);
  if (!o.destination.empty()) set_address(key.destination, o.destination);
  all_.push_back(std::make_unique<AppTcp>(
      key, o, [this](Bytes packet) { transmit(std::move(packet)); }, now_ms_));
  by_port_[{key.family, o.port}] = all_.back().get();
  return *all_.back();
}

AppTcp& AppHost::connect(const AppOptions& options) {
  AppTcp& app = prepare(options);
  app.connect();
  return app;
}

size_t AppHost::deliver() {
  for (Bytes& packet : std::exchange(wire_.from_engine, {}))
    from_engine_.push_back({now_ms_ + one_way_ms, std::move(packet)});
  size_t count = 0;
  for (; !from_engine_.empty() && from_engine_.front().due_ms <= now_ms_; count++) {
    Bytes packet = std::move(from_engine_.front().packet);
    from_engine_.pop_front();
    take(packet);
  }
  return count;
}

void AppHost::take(const Bytes& packet) {
  packets_seen++;
  FromEngine p = decode(packet);
  if (!p.problem.empty()) {
    if (broken_packets++ == 0) first_problem = p.problem;
    return;
  }
  auto found = by_port_.find({p.segment.key.family, ntohs(p.segment.key.app_port)});
  if (found == by_port_.end()) {
    strays.push_back(std::move(p));
  } else if (p.kind == FromEngine::Kind::kIcmp) {
    found->second->on_icmp(p);
  } else {
    found->second->on_segment(p.segment, p.vnet);
  }
}

void AppHost::set_now(uint64_t now_ms) {
  now_ms_ = now_ms;
  for (auto& app : all_) app->on_time(now_ms);
  if (!held_back_.empty()) push(std::exchange(held_back_, {}));
  for (; !to_engine_.empty() && to_engine_.front().due_ms <= now_ms_; to_engine_.pop_front())
    wire_.push(std::move(to_engine_.front().packet));
}

void AppHost::push(Bytes packet) {
  if (one_way_ms == 0) return wire_.push(std::move(packet));
  to_engine_.push_back({now_ms_ + one_way_ms, std::move(packet)});
}

bool AppHost::chance(uint32_t one_in) {
  if (one_in == 0) return false;
  random_ ^= random_ << 13;
  random_ ^= random_ >> 7;
  random_ ^= random_ << 17;
  return (random_ >> 16) % one_in == 0;
}

void AppHost::transmit(Bytes packet) {
  if (held_back_.empty() && chance(swap_one_in)) {
    held_back_ = std::move(packet);
    return;
  }
  if (chance(duplicate_one_in)) push(packet);
  push(std::move(packet));
  if (!held_back_.empty()) push(std::exchange(held_back_, {}));
}

Bytes pattern(uint32_t seed, size_t bytes, uint64_t from) {
  Bytes out(bytes);
  for (size_t i = 0; i < bytes; i++) out[i] = pattern_byte(seed, from + i);
  return out;
}

int64_t first_difference(std::span<const uint8_t> data, uint32_t seed, uint64_t from) {
  for (size_t i = 0; i < data.size(); i++)
    if (data[i] != pattern_byte(seed, from + i)) return static_cast<int64_t>(i);
  return -1;
}

}  // namespace lab
