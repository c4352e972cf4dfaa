// The only face of lwIP: everything above sees endpoints, bytes and flags.
#include "tcp/lwip_driver.h"

#include <arpa/inet.h>
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <utility>

#include "base/bytes.h"
#include "base/siphash.h"
#include "tcp/lwip_memory.h"
#include "tcp/trim.h"

extern "C" {
#include "lwip/init.h"
#include "lwip/ip.h"
#include "lwip/netif.h"
#include "lwip/pbuf.h"
#include "lwip/priv/tcp_priv.h"
#include "lwip/prot/tcp.h"
#include "lwip/tcp.h"
}

// Private fields of tcp_priv.h are used below, so the version is pinned.
static_assert(LWIP_VERSION_MAJOR == 2 && LWIP_VERSION_MINOR == 1 && LWIP_VERSION_REVISION == 3);
// Room behind each copied write, for the next one to be appended to: with it the smallest write
// would take memory of a whole segment, TCP_MSS bytes.
static_assert(TCP_OVERSIZE == 0);

namespace tcp {
namespace {

constexpr uint32_t kVnetBytes = sizeof(tun::VnetHeader);
constexpr uint32_t kCopyBelow = 4096;         // smaller segments go into a buffer of their own size
constexpr uint32_t kCopyBelowQueued = 32768;  // the same while the upstream is not keeping up
constexpr uint32_t kLargestWrite = 65535;     // tcp_write takes u16
constexpr uint32_t kMostSegments = 128;       // of one write; two pbufs each
constexpr uint32_t kFullQueue = TCP_SND_QUEUELEN / 2;  // pbufs; leaves room for 16 writes and more
constexpr uint32_t kFirstRtoTicks = 4;  // 400 ms until the RTT is known; RFC 6298's 1 s is for WANs
constexpr uint16_t kSmallestMss = 64;   // less is a lie; segments would be nothing but headers
// lwIP doubles up to 50 s. The app's kernel is one hop away; when it dropped something (short of
// socket memory, say) it will have room again soon.
constexpr int16_t kLongestRtoTicks = 100;

// A packet as read from the device. Larger segments travel in it to the upstream, uncopied.
struct ReadBuffer {
  pbuf_custom custom;
  ReadBuffer* next;
  uint8_t data[kVnetBytes + tun::kMaxPacketBytes + 64];
};

// A small segment in memory of its own size.
struct SmallBuffer {
  pbuf_custom custom;
  uint32_t bytes;
};

// lwIP's state is global; so is what its C callbacks need.
struct Globals {
  Driver* driver = nullptr;
  Endpoint* current = nullptr;  // between enter and leave
  PacketWriter* writer = nullptr;
  bool is_sending = false;  // data, and nothing is freed before leave()
  netif interface {};
  tcp_pcb_listen* listener = nullptr;
  SizeClasses memory;
  BufferPool<ReadBuffer> read_buffers;
  ReadBuffer* spare = nullptr;  // the one the next packet is read into
  pbuf_custom borrowed;         // for segments that lwIP never keeps
  uint64_t receive_bytes = 0;   // of memory held by received data
  uint64_t now_ms = 0;
  base::SipKey isn_secret;
  uint32_t mtu = 1500;
  uint8_t timer_calls = 0;  // mirrors lwIP's static tcp_timer_ctr
};
Globals g;

void free_read_buffer(pbuf* p) {
  g.receive_bytes -= sizeof(ReadBuffer);
  g.read_buffers.give(reinterpret_cast<ReadBuffer*>(p));
}
void free_small_buffer(pbuf* p) {
  auto* small = reinterpret_cast<SmallBuffer*>(p);
  g.receive_bytes -= small->bytes;
  g.memory.give(small);
}
void free_nothing(pbuf*) {}

pbuf* wrap(pbuf_custom* custom, uint8_t* data, uint32_t length, pbuf_free_custom_fn free_fn) {
  custom->custom_free_function = free_fn;
  auto n = static_cast<u16_t>(length);
  return pbuf_alloced_custom(PBUF_RAW, n, PBUF_REF, custom, data, n);
}

// ---- lwIP -> device ----

err_t output(pbuf* p) {
  auto* ip = static_cast<uint8_t*>(p->payload);
  uint8_t* header = ip + ((ip[0] >> 4) == 6 ? 40 : 20);
  const Endpoint* e = g.current;
  // With window scaling lwIP announces its ceiling in the SYN-ACK, whatever rcv_wnd will be.
  if ((header[13] & wire::kSyn) && e)
    base::store_be16(header + 14, static_cast<uint16_t>(std::min(
                                      e->window_target, ReceiveWindows::kLargestUnscaled)));
  bool may_wait = e && e->takes_large_packets && g.is_sending;
  bool written = g.writer->write(p, e ? e->peer_mss : UINT32_MAX, may_wait);
  return written ? ERR_OK : ERR_IF;  // lwIP keeps the segment and tries again
}

err_t output4(netif*, pbuf* p, const ip4_addr_t*) { return output(p); }
err_t output6(netif*, pbuf* p, const ip6_addr_t*) { return output(p); }

err_t init_interface(netif* n) {
  n->name[0] = 'p';
  n->name[1] = 'v';
  n->mtu = 65535;  // the kernel segments to the real MTU
  n->output = output4;
  n->output_ip6 = output6;
  n->flags = NETIF_FLAG_UP | NETIF_FLAG_LINK_UP;
  return ERR_OK;
}

// ---- filling ip_data, as ip4_input and ip6_input do ----

void set_address(ip_addr_t& out, const uint32_t* words, bool v6) {
  if (v6) {
    memcpy(ip_2_ip6(&out)->addr, words, 16);
    IP_SET_TYPE_VAL(out, IPADDR_TYPE_V6);
  } else {
    ip_2_ip4(&out)->addr = words[0];
    IP_SET_TYPE_VAL(out, IPADDR_TYPE_V4);
  }
}

void feed(pbuf* segment, const wire::FlowKey& key) {
  ip_data.current_netif = ip_data.current_input_netif = &g.interface;
  set_address(ip_data.current_iphdr_src, key.app, key.is_v6());
  set_address(ip_data.current_iphdr_dest, key.destination, key.is_v6());
  tcp_input(segment, &g.interface);
}

// tcp_split_unsent_seg() of 2.1.3 and master ORs flags: a FIN that rides on the segment would stay
// on its first half too, and the app would see the end too early.
bool split_unsent(tcp_pcb* p, uint32_t bytes) {
  bool has_fin = TCPH_FLAGS(p->unsent->tcphdr) & TCP_FIN;
  if (tcp_split_unsent_seg(p, static_cast<u16_t>(bytes)) != ERR_OK) return false;
  if (has_fin) TCPH_UNSET_FLAG(p->unsent->tcphdr, TCP_FIN);
  return true;
}

bool needs_timer(const tcp_pcb* p) {
  return p->unsent || p->unacked || p->ooseq || p->refused_data ||
         (p->flags & (TF_ACK_DELAY | TF_CLOSEPEND)) || p->state == SYN_RCVD ||
         p->state == LAST_ACK || p->state == CLOSING || p->state == FIN_WAIT_1;
}

}  // namespace

// ---- callbacks: they take note, nothing more ----

struct DriverCallbacks {
  static err_t accepted(void*, tcp_pcb*, err_t) { return ERR_OK; }

  static err_t received(void* arg, tcp_pcb*, pbuf* p, err_t) {
    auto& e = *static_cast<Endpoint*>(arg);
    g.driver->sink_.on_work(e);
    if (!p) {
      e.app_finished = true;
      return ERR_OK;
    }
    // Each pbuf goes alone into the FIFO: next is the FIFO's link from here on.
    for (pbuf *q = p, *next; q; q = next) {
      next = q->next;
      q->next = nullptr;
      q->tot_len = q->len;
      if (q->len == 0) {
        pbuf_free(q);
        continue;
      }
      (e.received_tail ? e.received_tail->next : e.received_head) = q;
      e.received_tail = q;
      e.received_bytes += q->len;
    }
    return ERR_OK;
  }

  static err_t sent(void* arg, tcp_pcb*, u16_t bytes) {
    auto& e = *static_cast<Endpoint*>(arg);
    e.acked_bytes += bytes;
    g.driver->sink_.on_work(e);
    return ERR_OK;
  }

  // lwIP has freed the pcb, or is about to.
  static void gone(void* arg, err_t why) {
    auto& e = *static_cast<Endpoint*>(arg);
    e.pcb = nullptr;
    if (why != ERR_CLSD) e.was_reset = true;
    g.driver->sink_.on_work(e);
  }
};

Driver::Driver(tun::PacketIo& io, EndpointSink& sink, const DriverOptions& options)
    : writer_(io), sink_(sink), options_(options), windows_(options.windows) {
  bool again = g.listener != nullptr;
  g.driver = this;
  g.writer = &writer_;
  g.mtu = options.mtu;
  g.isn_secret = base::random_key();
  g.spare = g.read_buffers.take();
  if (again) return;  // lwIP keeps its interface and listener for the life of the process
  lwip_init();
  ip4_addr_t address, mask, gateway;
  IP4_ADDR(&address, 192, 0, 2, 1);  // never on the wire: every pcb has its own local address
  IP4_ADDR(&mask, 255, 255, 255, 255);
  IP4_ADDR(&gateway, 0, 0, 0, 0);
  netif_add(&g.interface, &address, &mask, &gateway, nullptr, init_interface,
            [](pbuf*, netif*) -> err_t { return ERR_OK; });
  netif_set_default(&g.interface);
  netif_set_up(&g.interface);
  tcp_pcb* any = tcp_new_ip_type(IPADDR_TYPE_ANY);
  tcp_bind_netif(any, &g.interface);
  g.listener = reinterpret_cast<tcp_pcb_listen*>(tcp_listen(any));
  tcp_accept(reinterpret_cast<tcp_pcb*>(g.listener), DriverCallbacks::accepted);
  tcp_listen_pcbs.listen_pcbs = nullptr;
}

Driver::~Driver() {
  if (g.spare) g.read_buffers.give(g.spare);
  g.spare = nullptr;
  g.driver = nullptr;
  g.writer = nullptr;
}

void Driver::set_now(uint64_t now_ms) { g.now_ms = now_ms; }
uint32_t Driver::tick_ms() { return TCP_TMR_INTERVAL; }
uint64_t Driver::receive_buffer_bytes() const { return g.receive_bytes; }

void Driver::trim_buffers() { g.read_buffers.trim(); }
bool Driver::has_surplus_buffers() const { return g.read_buffers.has_surplus(); }

std::span<uint8_t> Driver::read_buffer() {
  return {g.spare->data, kVnetBytes + tun::kMaxPacketBytes};
}

// ---- the one-element lists ----

void Driver::enter(Endpoint& e) {
  g.current = &e;
  writer_.set_steering(e.is_steered);
  (e.in_time_wait ? tcp_tw_pcbs : tcp_active_pcbs) = e.pcb;
}

void Driver::leave(Endpoint& e) {
  writer_.flush();
  large_packets_.look(e, tcp_active_pcbs, writer_.stats().large_packets);
  g.is_sending = false;
  tcp_pcb* active = tcp_active_pcbs;
  tcp_pcb* time_wait = tcp_tw_pcbs;
  tcp_active_pcbs = tcp_tw_pcbs = nullptr;
  g.current = nullptr;
  if (active) {
    e.pcb = active;
  } else if (time_wait) {
    e.pcb = time_wait;
    if (!e.in_time_wait) {
      e.in_time_wait = true;
      sink_.on_work(e);
    }
  } else {
    e.pcb = nullptr;
  }
  if (!e.pcb) windows_.close(e);
  large_packets_.note_acks(e);
  rearm(e);
}

void Driver::rearm(Endpoint& e) {
  bool need = e.pcb && !e.in_time_wait && needs_timer(e.pcb);
  if (!need) {
    disarm(e);
  } else if (e.armed_at < 0) {
    e.armed_at = static_cast<int32_t>(armed_.size());
    armed_.push_back(&e);
  }
}

void Driver::disarm(Endpoint& e) {
  if (e.armed_at < 0) return;
  Endpoint* last = armed_.back();
  armed_[static_cast<size_t>(e.armed_at)] = last;
  last->armed_at = e.armed_at;
  armed_.pop_back();
  e.armed_at = -1;
}

// ---- from the app ----

void Driver::input(Endpoint& e, wire::SegmentView& s) {
  // Just half of all numbers away is neither before nor behind: lwIP 2.1.3 takes one byte or a FIN
  // from there as if it overlapped. As if lost on the way.
  constexpr uint32_t kHalfOfAllNumbers = 0x80000000;
  if (s.seq - e.pcb->rcv_nxt == kHalfOfAllNumbers && !(s.flags & wire::kSyn)) return;
  if (s.seq != e.pcb->rcv_nxt) trim_to_window(*e.pcb, s);
  if (e.pcb->ooseq) trim_to_kept_fin(*e.pcb, s);
  // Options were read when the SYN was accepted. lwIP would take MSS and window scale again, from
  // any segment: so the list ends where it begins.
  constexpr uint32_t kPlainHeaderBytes = 20;
  if (s.header_bytes > kPlainHeaderBytes) s.tcp[kPlainHeaderBytes] = 0;
  pbuf* p;
  bool keeps_nothing = s.payload_bytes == 0 && !(s.flags & (wire::kSyn | wire::kFin));
  bool copies = s.length <= kCopyBelow || (e.received_head && s.length < kCopyBelowQueued);
  if (keeps_nothing) {
    p = wrap(&g.borrowed, s.tcp, s.length, free_nothing);
  } else if (copies) {
    auto bytes = static_cast<uint32_t>(sizeof(SmallBuffer) + s.length);
    auto* small = static_cast<SmallBuffer*>(g.memory.take(bytes));
    if (!small) return;  // as if lost on the way
    small->bytes = bytes;
    g.receive_bytes += bytes;
    auto* data = reinterpret_cast<uint8_t*>(small + 1);
    memcpy(data, s.tcp, s.length);
    p = wrap(&small->custom, data, s.length, free_small_buffer);
  } else {
    ReadBuffer* next = g.read_buffers.take();
    if (!next) return;
    g.receive_bytes += sizeof(ReadBuffer);
    p = wrap(&g.spare->custom, s.tcp, s.length, free_read_buffer);
    g.spare = next;
  }
  enter(e);
  g.is_sending = true;
  feed(p, s.key);
  leave(e);
  after_input(e);
}

void Driver::after_input(Endpoint& e) {
  tcp_pcb* p = e.pcb;
  if (!p || e.in_time_wait) return;
  if (!e.is_established && p->state >= ESTABLISHED) {
    // lwIP sets its own initial window after the accept callback; slow start makes no sense on a
    // queue that we size ourselves.
    e.is_established = true;
    p->cwnd = p->ssthresh = options_.congestion_window;
  } else if (p->cwnd > options_.congestion_window) {
    p->cwnd = options_.congestion_window;
  }
  // The head segment is larger than what the app's window leaves open and nothing is in flight:
  // lwIP would wait for its persist timer (300 ms); send what fits now.
  bool stalled = p->unsent && !p->unacked && p->unsent->len > p->snd_wnd && p->snd_wnd >= 2048 &&
                 p->snd_wnd < 65536;
  if (!stalled) return;
  enter(e);
  if (split_unsent(p, p->snd_wnd)) {
    stats_.stall_splits++;
    tcp_output(p);
  }
  leave(e);
}

bool Driver::accept(Endpoint& e, const wire::FlowKey& key, std::span<uint8_t> syn) {
  wire::SegmentView view;
  view.tcp = syn.data();
  view.length = view.header_bytes = static_cast<uint32_t>(syn.size());
  uint32_t largest = options_.mtu - (key.is_v6() ? 60 : 40);
  if (uint16_t mss = wire::mss_option(view)) e.peer_mss = mss;
  if (e.peer_mss > largest) e.peer_mss = static_cast<uint16_t>(largest);
  if (e.peer_mss < kSmallestMss) e.peer_mss = kSmallestMss;
  wire::set_mss_option(view, TCP_MSS);

  windows_.open(e);

  auto bytes = static_cast<uint32_t>(sizeof(SmallBuffer) + syn.size());
  auto* small = static_cast<SmallBuffer*>(g.memory.take(bytes));
  if (!small) {
    windows_.close(e);
    return false;
  }
  small->bytes = bytes;
  g.receive_bytes += bytes;
  auto* data = reinterpret_cast<uint8_t*>(small + 1);
  memcpy(data, syn.data(), syn.size());
  pbuf* p = wrap(&small->custom, data, view.length, free_small_buffer);

  tcp_listen_pcbs.listen_pcbs = g.listener;
  g.listener->local_port = ntohs(key.destination_port);
  g.listener->callback_arg = &e;
  g.listener->next = nullptr;
  enter(e);
  feed(p, key);
  tcp_listen_pcbs.listen_pcbs = nullptr;
  leave(e);
  if (!e.pcb) return false;
  tcp_recv(e.pcb, DriverCallbacks::received);
  tcp_sent(e.pcb, DriverCallbacks::sent);
  tcp_err(e.pcb, DriverCallbacks::gone);
  tcp_nagle_disable(e.pcb);
  // tcp_write() bounds segments by half of it, but by nothing when that is 0: a bound that came
  // later would be below what is queued, and 2.1.3 computes the difference in 16 unsigned bits. Nor
  // may it be below the options of a SYN-ACK that is sent again.
  e.pcb->snd_wnd_max = std::max<uint32_t>(e.pcb->snd_wnd_max, 2 * kSmallestMss);
  e.pcb->rto = e.pcb->sv = kFirstRtoTicks;
  e.pcb->rcv_wnd = e.pcb->rcv_ann_wnd = e.window_target;
  e.pcb->rcv_ann_right_edge = e.pcb->rcv_nxt + e.window_target;
  return true;
}

void Driver::reset_unknown(wire::SegmentView& s) {
  if (s.flags & wire::kRst) return;
  stats_.resets_sent++;
  g.current = nullptr;
  feed(wrap(&g.borrowed, s.tcp, s.length, free_nothing), s.key);  // empty lists: lwIP answers
}

void Driver::reset_syn(const wire::FlowKey& key, uint32_t seq) {
  ip_addr_t local, remote;
  set_address(local, key.destination, key.is_v6());
  set_address(remote, key.app, key.is_v6());
  stats_.resets_sent++;
  g.current = nullptr;
  tcp_rst(nullptr, 0, seq + 1, &local, &remote, ntohs(key.destination_port), ntohs(key.app_port));
}

void Driver::consumed(Endpoint& e, uint32_t length) {
  e.received_bytes -= length;
  for (uint32_t left = length; left > 0;) {
    pbuf* p = e.received_head;
    if (left < p->len) {
      p->payload = static_cast<uint8_t*>(p->payload) + left;
      p->len = static_cast<u16_t>(p->len - left);
      p->tot_len = p->len;
      break;
    }
    left -= p->len;
    e.received_head = p->next;
    p->next = nullptr;
    pbuf_free(p);
  }
  if (!e.received_head) e.received_tail = nullptr;
  tcp_pcb* p = e.pcb;
  if (!p || e.in_time_wait) return;
  windows_.grow(e, length, p->flags & TF_WND_SCALE);
  // What may still arrive plus what waits here never exceeds the target, but for what a larger
  // target has allowed before. That may not have been announced yet, and must be some day, or a
  // sender that has used up what was announced waits for ever.
  uint32_t room = e.window_target > e.received_bytes ? e.window_target - e.received_bytes : 0;
  p->rcv_wnd = std::max<tcpwnd_size_t>(p->rcv_wnd, room);
  auto announced = static_cast<int32_t>(p->rcv_ann_right_edge - p->rcv_nxt);
  // Like tcp_recved(), but with a step that suits small windows too: lwIP's is the (raised) MSS.
  auto step = static_cast<int32_t>(std::min<uint32_t>(e.window_target / 2, TCP_MSS));
  if (static_cast<int32_t>(room) - std::max(announced, 0) < step) return;
  bool was_narrow = p->rcv_ann_wnd < e.window_target / 2;
  p->rcv_ann_wnd = room;
  if (was_narrow) tcp_set_flags(p, TF_ACK_DELAY);
}

void Driver::drop_received(Endpoint& e) {
  while (pbuf* p = e.received_head) {
    e.received_head = p->next;
    p->next = nullptr;
    pbuf_free(p);
  }
  e.received_tail = nullptr;
  e.received_bytes = 0;
}

bool Driver::wants_ack(const Endpoint& e) const {
  return e.pcb && !e.in_time_wait && (e.pcb->flags & (TF_ACK_DELAY | TF_ACK_NOW));
}

void Driver::ack_now(Endpoint& e) {
  enter(e);
  tcp_ack_now(e.pcb);
  tcp_output(e.pcb);
  tcp_clear_flags(e.pcb, TF_ACK_DELAY);
  leave(e);
}

// ---- towards the app ----

uint32_t Driver::unsent_bytes(const Endpoint& e) const { return e.pcb->snd_lbb - e.pcb->snd_nxt; }

uint32_t Driver::send_room(const Endpoint& e, uint32_t cap) const {
  const tcp_pcb* p = e.pcb;
  if (!p || e.in_time_wait || p->snd_queuelen > kFullQueue) return 0;
  uint32_t queued = p->snd_lbb - p->lastack;
  if (queued >= cap) return 0;
  return std::min<uint32_t>(cap - queued, p->snd_buf);
}

uint32_t Driver::preferred_write(const Endpoint& e) const {
  // lwIP cuts segments at min(mss, half the largest window seen).
  uint32_t half = e.pcb->snd_wnd_max / 2;
  uint32_t segment = half ? std::min<uint32_t>(e.pcb->mss, half) : e.pcb->mss;
  if (segment >= 32768) return segment;
  return std::min(kLargestWrite / segment, kMostSegments) * segment;
}

bool Driver::write(Endpoint& e, const uint8_t* data, uint32_t length, bool copy) {
  return tcp_write(e.pcb, data, static_cast<u16_t>(length), copy ? TCP_WRITE_FLAG_COPY : 0) ==
         ERR_OK;
}

void Driver::flush(Endpoint& e) {
  if (!e.pcb || e.in_time_wait) return;
  enter(e);
  g.is_sending = true;
  tcp_output(e.pcb);
  leave(e);
}

bool Driver::finish(Endpoint& e) {
  tcp_pcb* p = e.pcb;
  if (!p || e.in_time_wait) return true;
  // lwIP must not split a segment with a FIN (see split_unsent), so none while anything that could
  // be split waits. A window that shrinks afterwards is seen to in tick().
  bool all_fits = p->snd_lbb - p->lastack <= std::min<uint32_t>(p->snd_wnd, p->cwnd);
  if (p->unsent && !all_fits) return false;
  enter(e);
  tcp_shutdown(p, 0, 1);
  leave(e);
  return true;
}

void Driver::abort(Endpoint& e) {
  if (!e.pcb) return;
  if (e.in_time_wait) {
    forget(e);
    return;
  }
  e.was_reset = true;
  stats_.resets_sent++;
  // The byte of a window probe was refused, and kernels believe only a RST with the exact number
  // (RFC 5961 section 3).
  if (e.pcb->persist_backoff > 0 && !e.pcb->unacked) e.pcb->snd_nxt = e.pcb->lastack;
  enter(e);
  tcp_abort(e.pcb);
  leave(e);
}

void Driver::forget(Endpoint& e) {
  if (!e.pcb) return;
  tcp_err(e.pcb, nullptr);
  enter(e);
  tcp_abort(e.pcb);  // sends nothing in TIME_WAIT
  leave(e);
  e.in_time_wait = false;
}

uint32_t Driver::probe(Endpoint& e) {
  if (!e.pcb || e.in_time_wait) return 0;
  uint32_t unanswered = e.pcb->keep_cnt_sent;
  enter(e);
  tcp_keepalive(e.pcb);
  e.pcb->keep_cnt_sent++;
  leave(e);
  return unanswered;
}

// ---- time ----

// lwIP gives these up without a word in its slow timer; the app deserves a RST.
void Driver::check_given_up() {
  constexpr uint32_t kLastAckTicks = 2 * TCP_MSL / TCP_SLOW_INTERVAL;
  for (Endpoint* e : snapshot_) {
    tcp_pcb* p = e->pcb;
    if (!p || e->armed_at < 0) continue;
    bool last_ack_lost = p->state == LAST_ACK && tcp_ticks - p->tmr >= kLastAckTicks;
    if (p->nrtx < TCP_MAXRTX && p->persist_probe < TCP_MAXRTX && !last_ack_lost) continue;
    stats_.given_up++;
    abort(*e);
  }
}

void Driver::tick(uint32_t elapsed_ticks) {
  snapshot_.assign(armed_.begin(), armed_.end());
  check_given_up();
  slow_phase_ = !slow_phase_;
  uint32_t slow_steps = (elapsed_ticks + (slow_phase_ ? 0 : 1)) / 2;
  uint32_t base = tcp_ticks;
  // One pcb at a time, so that every packet it sends is known to be its own; tcp_ticks is put back
  // in between, since every call advances it. last_timer must differ from lwIP's call counter.
  for (Endpoint* e : snapshot_) {
    if (e->armed_at < 0) continue;
    enter(*e);
    e->pcb->last_timer = g.timer_calls++;
    tcp_fasttmr();
    if (slow_steps > 0 && tcp_active_pcbs) {
      tcp_pcb* p = tcp_active_pcbs;
      bool may_split_fin = p->persist_backoff > 0 && p->snd_wnd > 0 && p->unsent &&
                           p->unsent->len > p->snd_wnd && (TCPH_FLAGS(p->unsent->tcphdr) & TCP_FIN);
      if (may_split_fin) split_unsent(p, p->snd_wnd);
      tcp_ticks = base;
      tcp_active_pcbs->last_timer = g.timer_calls++;
      uint8_t attempts = p->nrtx;
      tcp_slowtmr();
      bool is_again = tcp_active_pcbs && tcp_active_pcbs->nrtx > attempts;
      if (is_again) stats_.timeouts++;
      if (is_again && large_packets_.note_timeout(*e)) writer_.stop_large_packets();
      if (tcp_active_pcbs && tcp_active_pcbs->rto > kLongestRtoTicks)
        tcp_active_pcbs->rto = kLongestRtoTicks;
    }
    leave(*e);
  }
  tcp_ticks = base + slow_steps;
}

}  // namespace tcp

// ---- what lwIP calls ----

extern "C" {

void* proxyvpn_lwip_malloc(size_t bytes) { return tcp::g.memory.take(bytes); }
void proxyvpn_lwip_free(void* p) { tcp::g.memory.give(p); }
void* proxyvpn_lwip_calloc(size_t count, size_t bytes) {
  void* p = tcp::g.memory.take(count * bytes);
  if (p) memset(p, 0, count * bytes);
  return p;
}

uint32_t sys_now(void) { return static_cast<uint32_t>(tcp::g.now_ms); }

uint32_t proxyvpn_lwip_random(void) {
  uint32_t value;
  base::random_bytes(&value, sizeof value);
  return value;
}

// RFC 6528 section 3: M + F(tuple, secret), M a 4 us clock.
uint32_t proxyvpn_lwip_isn(const void* local_ip, uint16_t local_port, const void* remote_ip,
                           uint16_t remote_port) {
  uint64_t words[5] = {};
  memcpy(words, local_ip, 16);
  memcpy(words + 2, remote_ip, 16);
  words[4] = static_cast<uint64_t>(local_port) << 16 | remote_port;
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  uint64_t clock =
      static_cast<uint64_t>(now.tv_sec) * 250000 + static_cast<uint64_t>(now.tv_nsec) / 4000;
  return static_cast<uint32_t>(clock + base::siphash(tcp::g.isn_secret, words, 5));
}

void proxyvpn_lwip_assert(const char* message, const char* file, int line) {
  fprintf(stderr, "lwip: %s (%s:%d)\n", message, file, line);
  abort();
}

}  // extern "C"
