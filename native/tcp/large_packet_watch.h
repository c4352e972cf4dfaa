// Whether large packets arrive (decision 0017). What the device has taken may still be dropped
// behind it, by a filter that believes the total length. lwIP sends again what was lost, so nothing
// is lost but time: a few of them are enough. One is watched at a time.
#pragma once
#include <cstdint>

#include "tcp/endpoint.h"

namespace tcp {

class LargePacketWatch {
 public:
  /// `sent` large packets have left up to now; what is new is `endpoint`'s. `pcb` is null when lwIP
  /// has just let go of it.
  void look(const Endpoint& endpoint, const tcp_pcb* pcb, uint64_t sent);
  /// The endpoint's pcb may have heard of acknowledgements, or be gone.
  void note_acks(const Endpoint& endpoint);
  /// Something of the endpoint's was sent again. @return whether enough were lost to stop
  bool note_timeout(const Endpoint& endpoint);

 private:
  const Endpoint* watched_ = nullptr;
  uint32_t end_ = 0;  // sequence number behind the one watched
  uint64_t seen_ = 0;
  int lost_ = 0;  // of those watched, one after the other
};

}  // namespace tcp
