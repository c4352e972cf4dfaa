// Whether large packets arrive.
#include "tcp/large_packet_watch.h"

#include <utility>

extern "C" {
#include "lwip/priv/tcp_priv.h"
}

namespace tcp {
namespace {

constexpr int kMostLost = 3;

}  // namespace

void LargePacketWatch::look(const Endpoint& e, const tcp_pcb* pcb, uint64_t sent) {
  bool is_new = std::exchange(seen_, sent) != sent;
  if (!is_new || watched_ || !pcb) return;
  watched_ = &e;
  end_ = pcb->snd_nxt;
}

void LargePacketWatch::note_acks(const Endpoint& e) {
  if (&e != watched_) return;
  if (e.pcb && !e.in_time_wait && TCP_SEQ_LT(e.pcb->lastack, end_)) return;
  watched_ = nullptr;
  if (e.pcb) lost_ = 0;
}

bool LargePacketWatch::note_timeout(const Endpoint& e) {
  if (&e != watched_) return false;
  watched_ = nullptr;
  return ++lost_ >= kMostLost;
}

}  // namespace tcp
