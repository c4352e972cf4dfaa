// Long streams from the upstream are gathered: the kernel tells of them when a large packet's worth
// waits (SO_RCVLOWAT, socket(7)), not at each segment. Fewer wake-ups, larger reads, larger packets
// to the app; decision 0018.
//
// What is less than that must not wait for ever. A millisecond or two without a read, and the flow
// is asked how much lies there: something is read, nothing ends the gathering. It ends, too, when
// the app says something (who asks wants the whole answer, down to its last byte, soon) and while
// the app does not keep up.
#include <linux/sockios.h>
#include <sys/ioctl.h>

#include <algorithm>

#include "relay/relay.h"

namespace relay {
namespace {

constexpr uint32_t kGathered = 440 * 1024;  // what the largest packet to the app takes
constexpr uint32_t kLongStream = 4 << 20;   // bytes without a word of the app's
constexpr uint32_t kFastRead = 128 * 1024;  // bytes that came while we were at work elsewhere
constexpr uint64_t kPatienceMs = 1;

}  // namespace

void Relay::note_read(Flow& flow, uint32_t bytes) {
  flow.has_read_lately = true;
  flow.stream_bytes = std::min(flow.stream_bytes + bytes, kLongStream);
  // The queue of a crowd's flow is bounded to less than what would be gathered.
  bool is_worth_it = flow.stream_bytes == kLongStream && bytes >= kFastRead;
  if (flow.is_gathered || !is_worth_it || flow.has_bounded_queue) return;
  if (!tell_when(flow.fd, kGathered)) return;
  flow.is_gathered = true;
  stats_.gathered++;
  if (flow.is_in_gather_queue) return;
  flow.is_in_gather_queue = true;
  flow.timers_pending++;
  gathered_.push_back({now_ms_ + kPatienceMs, &flow});
}

void Relay::stop_gathering(Flow& flow) {
  flow.stream_bytes = 0;
  tell_of_every_byte(flow);
}

void Relay::tell_of_every_byte(Flow& flow) {
  if (!flow.is_gathered) return;
  flow.is_gathered = false;
  if (flow.fd >= 0) tell_when(flow.fd, 1);  // at once, if there is something
}

void Relay::check_gathered() {
  while (!gathered_.empty() && gathered_.front().due_ms <= now_ms_) {
    Flow& flow = *gathered_.front().flow;
    gathered_.pop_front();
    if (flow.phase != stack::Phase::kDead) look_after(flow);
    if (flow.phase != stack::Phase::kDead && flow.is_gathered) {
      gathered_.push_back({now_ms_ + kPatienceMs, &flow});
      continue;
    }
    flow.is_in_gather_queue = false;
    flow.timers_pending--;
    if (flow.phase == stack::Phase::kDead && !flow.timers_pending) bury(flow);
  }
}

void Relay::look_after(Flow& flow) {
  bool was_read = flow.has_read_lately;
  flow.has_read_lately = false;
  if (!flow.is_gathered || was_read) return;
  if (flow.fd < 0 || flow.can_read) return tell_of_every_byte(flow);  // it waits for the app
  int waiting = 0;
  if (ioctl(flow.fd, SIOCINQ, &waiting) < 0 || waiting == 0) return stop_gathering(flow);
  flow.can_read = true;
  on_work(flow);
}

}  // namespace relay
