// Packets to connections: the table of 4-tuples, held SYNs, TIME_WAIT.
#include "stack/stack.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace stack {
namespace {

// Our own TIME_WAIT. RFC 9293 asks for 2 MSL (4 minutes) because old segments may linger in a
// network; here there is none between the two ends, and the app's kernel reuses ports after 1 s.
constexpr uint64_t kTimeWaitMs = 1000;
constexpr size_t kFirstBuckets = 1 << 10;

}  // namespace

Stack::Stack(tun::PacketIo& io, Owner& owner, const tcp::DriverOptions& options,
             Neighbours* neighbours, const DatagramOptions& datagram_options)
    : io_(io),
      owner_(owner),
      neighbours_(neighbours),
      driver_(io, owner, options),
      datagrams_(io, datagram_options),
      secret_(neighbours ? neighbours->secret() : base::random_key()),
      buckets_(kFirstBuckets) {}

// ---- the table ----

Connection* Stack::find(const wire::FlowKey& key, uint64_t hash) const {
  for (Connection* c = buckets_[hash & (buckets_.size() - 1)]; c; c = c->next_in_bucket)
    if (c->hash == hash && c->key == key) return c;
  return nullptr;
}

void Stack::insert(Connection& c) {
  if (count_ * 2 > buckets_.size()) {  // most look into their bucket and find one, or none
    std::vector<Connection*> larger(buckets_.size() * 2);
    for (Connection* x : buckets_) {
      while (x) {
        Connection* next = x->next_in_bucket;
        Connection*& bucket = larger[x->hash & (larger.size() - 1)];
        x->next_in_bucket = bucket;
        bucket = x;
        x = next;
      }
    }
    buckets_.swap(larger);
  }
  Connection*& bucket = buckets_[c.hash & (buckets_.size() - 1)];
  c.next_in_bucket = bucket;
  bucket = &c;
  c.is_in_table = true;
  count_++;
  if (neighbours_) neighbours_->claim(c.hash);
}

void Stack::remove(Connection& c) {
  drop_syn(c);
  if (!c.is_in_table) return;
  for (Connection** p = &buckets_[c.hash & (buckets_.size() - 1)]; *p; p = &(*p)->next_in_bucket) {
    if (*p != &c) continue;
    *p = c.next_in_bucket;
    break;
  }
  c.is_in_table = false;
  count_--;
  if (neighbours_) neighbours_->release(c.hash);
}

// ---- packets ----

int Stack::read_strays(tun::PacketIo& queue, int budget) {
  is_stray_ = true;
  int more = read_from(queue, budget);
  is_stray_ = false;
  return more;
}

int Stack::read_from(tun::PacketIo& queue, int budget) {
  for (int i = 0; i < budget; i++) {
    ssize_t n = queue.read(driver_.read_buffer());
    if (n == -EAGAIN) return 0;
    if (n == -EINTR) continue;
    if (n < 0) return static_cast<int>(n);
    handle_packet(static_cast<size_t>(n));
  }
  return 1;
}

void Stack::handle_packet(size_t bytes) {
  stats_.packets_from_app++;
  std::span<uint8_t> buffer = driver_.read_buffer();
  tun::VnetHeader vnet;
  if (bytes < sizeof vnet) {
    stats_.malformed++;
    return;
  }
  memcpy(&vnet, buffer.data(), sizeof vnet);
  std::span<uint8_t> packet = buffer.subspan(sizeof vnet, bytes - sizeof vnet);
  wire::SegmentView segment;
  switch (wire::parse_packet(packet, segment)) {
    case wire::Verdict::kMalformed: stats_.malformed++; return;
    case wire::Verdict::kNotTcp: datagrams_.take(packet, vnet); return;
    case wire::Verdict::kTcp: break;
  }
  // Local traffic comes with its checksum left to the device; forwarded traffic may not.
  bool is_trusted = vnet.flags & (tun::kVnetNeedsChecksum | tun::kVnetDataValid);
  if (!is_trusted && !wire::tcp_checksum_is_right(segment)) {
    stats_.bad_checksum++;
    return;
  }
  handle_segment(segment, buffer.first(bytes));
}

void Stack::take_packet(std::span<const uint8_t> packet) {
  std::span<uint8_t> buffer = driver_.read_buffer();
  memcpy(buffer.data(), packet.data(), packet.size());  // it came out of a buffer of the same size
  is_stray_ = true;
  handle_packet(packet.size());
  is_stray_ = false;
}

void Stack::handle_segment(wire::SegmentView& s, std::span<const uint8_t> packet) {
  uint64_t hash = wire::hash_of(secret_, s.key);
  Connection* c = find(s.key, hash);
  if (c && is_stray_) c->is_steered = true;
  bool is_first_syn = (s.flags & (wire::kSyn | wire::kAck | wire::kRst | wire::kFin)) == wire::kSyn;
  // RFC 9293 section 3.10.7.4, RFC 6191: a new SYN reopens a connection in TIME_WAIT. The old one
  // leaves the table and ends by itself.
  if (c && is_first_syn && c->phase == Phase::kOpen && (c->in_time_wait || !c->pcb)) {
    remove(*c);
    c = nullptr;
  }
  if (c && c->phase == Phase::kHeld) {
    // A repeated SYN waits like the first; RST takes it back, and so does another attempt.
    bool is_withdrawn = (s.flags & wire::kRst) && s.seq == c->syn_seq + 1;
    bool is_other_attempt = is_first_syn && s.seq != c->syn_seq;
    if (is_withdrawn || is_other_attempt) owner_.on_withdrawn(*c);
    if (!is_other_attempt) return;
    c = nullptr;
  }
  if (!c) {
    if (neighbours_ && neighbours_->pass_on(hash, packet)) return;
    // Data on a SYN (RFC 7413, or RFC 9293 section 3.10.7.2) is left to be sent again.
    if (is_first_syn) {
      hold_syn(s, hash);
    } else {
      driver_.reset_unknown(s);
    }
    return;
  }
  // RFC 9293 section 3.10.7.4: without ACK the rest of a segment means nothing. lwIP would take it.
  if (!c->pcb || !(s.flags & (wire::kAck | wire::kSyn | wire::kRst))) return;
  driver_.input(*c, s);
  owner_.on_input(*c);
}

void Stack::hold_syn(wire::SegmentView& s, uint64_t hash) {
  Connection* c = owner_.new_connection(s.key);
  if (!c) return;
  c->key = s.key;
  c->hash = hash;
  c->is_steered = is_stray_;
  c->syn_seq = s.seq;
  c->syn_bytes = static_cast<uint8_t>(s.header_bytes);  // at most 60
  c->syn = static_cast<uint8_t*>(malloc(s.header_bytes));
  if (c->syn) memcpy(c->syn, s.tcp, s.header_bytes);
  insert(*c);
  owner_.on_held(*c);
}

void Stack::drop_syn(Connection& c) {
  free(c.syn);
  c.syn = nullptr;
}

// ---- answers to a held SYN ----

bool Stack::accept(Connection& c) {
  c.phase = Phase::kOpen;
  bool accepted = c.syn && driver_.accept(c, c.key, {c.syn, c.syn_bytes});
  drop_syn(c);
  return accepted;
}

void Stack::refuse(Connection& c) { driver_.reset_syn(c.key, c.syn_seq); }

void Stack::refuse_unreachable(Connection& c, wire::Unreachable why) {
  wire::IcmpPacket packet = wire::unreachable_for_syn(c.key, c.syn_seq, why);
  tun::VnetHeader vnet{};
  iovec parts[2] = {{&vnet, sizeof vnet}, {packet.bytes.data(), packet.length}};
  io_.write(parts, 2);
}

// ---- time ----

void Stack::set_now(uint64_t now_ms) {
  if (last_tick_ms_ == 0) last_tick_ms_ = now_ms;
  now_ms_ = now_ms;
  driver_.set_now(now_ms);
  datagrams_.set_now(now_ms);
}

void Stack::enter_time_wait(Connection& c) {
  if (c.in_time_wait_queue) return;
  c.in_time_wait_queue = true;
  c.timers_pending++;
  time_wait_.push_back({now_ms_ + kTimeWaitMs, &c});
}

void Stack::run_timers() {
  uint64_t elapsed = now_ms_ - last_tick_ms_;
  if (elapsed >= tcp::Driver::tick_ms()) {
    uint64_t ticks = elapsed / tcp::Driver::tick_ms();
    last_tick_ms_ += ticks * tcp::Driver::tick_ms();
    driver_.tick(static_cast<uint32_t>(ticks));
  }
  while (!time_wait_.empty() && time_wait_.front().due_ms <= now_ms_) {
    Connection& c = *time_wait_.front().connection;
    time_wait_.pop_front();
    c.in_time_wait_queue = false;
    c.timers_pending--;
    driver_.forget(c);
    owner_.on_time_wait_over(c);
  }
}

int Stack::timeout_ms() const {
  uint64_t due = UINT64_MAX;
  if (driver_.has_timers()) due = last_tick_ms_ + tcp::Driver::tick_ms();
  if (!time_wait_.empty()) due = std::min(due, time_wait_.front().due_ms);
  if (due == UINT64_MAX) return -1;
  return due > now_ms_ ? static_cast<int>(due - now_ms_) : 0;
}

}  // namespace stack
