// Segments are cut to what lwIP 2.1.3 handles well before it sees them.
#include "tcp/trim.h"

#include <algorithm>

extern "C" {
#include "lwip/priv/tcp_priv.h"
}

namespace tcp {
namespace {

// Leaves the first `room` bytes of the segment, and no FIN.
void cut(wire::SegmentView& s, uint32_t room) {
  constexpr size_t kFlagsAt = 13;
  s.tcp[kFlagsAt] = static_cast<uint8_t>(s.tcp[kFlagsAt] & ~wire::kFin);
  s.flags = static_cast<uint8_t>(s.flags & ~wire::kFin);
  uint32_t kept = std::min(s.payload_bytes, room);
  s.length -= s.payload_bytes - kept;
  s.payload_bytes = kept;
}

}  // namespace

void trim_to_window(const tcp_pcb& pcb, wire::SegmentView& s) {
  uint32_t ahead = s.seq - pcb.rcv_nxt;
  if (ahead >= pcb.rcv_wnd) return;  // all of it is old, or behind the window: lwIP looks at that
  uint32_t room = pcb.rcv_wnd - ahead;
  uint32_t fin = s.flags & wire::kFin ? 1 : 0;
  if (s.payload_bytes + fin > room) cut(s, room);
}

void trim_to_kept_fin(const tcp_pcb& pcb, wire::SegmentView& s) {
  const tcp_seg* last = pcb.ooseq;
  while (last->next) last = last->next;
  if (!(TCPH_FLAGS(last->tcphdr) & TCP_FIN)) return;
  auto room = static_cast<int32_t>(last->tcphdr->seqno + last->len - s.seq);
  if (room >= 0 && s.payload_bytes <= static_cast<uint32_t>(room)) return;
  cut(s, static_cast<uint32_t>(std::max(room, 0)));
}

}  // namespace tcp
