// Slow time-outs: dial, idle, keepalive; and what is due once a second. A wheel of one-second
// slots; a flow is looked at when its slot comes round and moves on to the slot of its next
// deadline, so that data never touches it.
#include <malloc.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "relay/relay.h"

namespace relay {
namespace {

constexpr uint32_t kMaxUnansweredProbes = 6;
constexpr uint32_t kProbeIntervalS = 10;
// Flow::last_activity_s is cut to a whole second: what moved last may be so much younger.
constexpr uint32_t kActivityPrecisionMs = 1000;
// Below these what malloc keeps is not worth a look at all of its memory.
constexpr uint64_t kManyFlows = 100;
constexpr uint64_t kManyBytes = 256 << 20;

}  // namespace

void Relay::wheel_insert(Flow& flow, uint64_t due_ms) {
  uint64_t due_s = std::max(due_ms / 1000 + 1, wheel_now_s_ + 1);
  due_s = std::min(due_s, wheel_now_s_ + kWheelSlots - 1);
  flow.wheel_slot = static_cast<uint8_t>(due_s % kWheelSlots);
  Flow*& head = wheel_[flow.wheel_slot];
  flow.wheel_previous = nullptr;
  flow.wheel_next = head;
  if (head) head->wheel_previous = &flow;
  head = &flow;
}

void Relay::wheel_remove(Flow& flow) {
  if (flow.wheel_previous) {
    flow.wheel_previous->wheel_next = flow.wheel_next;
  } else if (wheel_[flow.wheel_slot] == &flow) {
    wheel_[flow.wheel_slot] = flow.wheel_next;
  } else {
    return;  // was never in
  }
  if (flow.wheel_next) flow.wheel_next->wheel_previous = flow.wheel_previous;
  flow.wheel_next = flow.wheel_previous = nullptr;
}

void Relay::run_wheel() {
  uint64_t now_s = now_ms_ / 1000;
  if (wheel_now_s_ == 0 || now_s - wheel_now_s_ > kWheelSlots)
    wheel_now_s_ = now_s > kWheelSlots ? now_s - kWheelSlots : 0;
  while (wheel_now_s_ < now_s) {
    wheel_now_s_++;
    Flow* flow = wheel_[wheel_now_s_ % kWheelSlots];
    wheel_[wheel_now_s_ % kWheelSlots] = nullptr;
    refill_predialled();
    dialer_.trim();
    send_buffers_.trim();
    driver_.trim_buffers();
    give_memory_back();
    while (flow) {
      Flow* next = flow->wheel_next;
      if (next) next->wheel_previous = nullptr;
      flow->wheel_next = flow->wheel_previous = nullptr;
      check_flow(*flow);
      flow = next;
    }
  }
}

// malloc keeps what the busiest moment needed, in as many pieces as it was given back in.
bool Relay::owes_memory() const {
  return stats_.opened - at_last_return_.flows >= kManyFlows ||
         moved_bytes() - at_last_return_.bytes >= kManyBytes;
}

void Relay::give_memory_back() {
  Work now{stats_.opened, moved_bytes()};
  bool is_quiet = now == std::exchange(at_last_look_, now);
  if (!is_quiet || has_idle_memory() || !owes_memory()) return;
  at_last_return_ = now;
  stats_.memory_returns++;
  malloc_trim(0);
}

bool Relay::has_idle_memory() const {
  return dialer_.has_spares() || send_buffers_.has_surplus() || driver_.has_surplus_buffers();
}

uint64_t Relay::next_check_ms(const Flow& flow) const {
  bool is_dialling = flow.upstream_phase != UpstreamPhase::kRelaying && !flow.is_health_check;
  if (is_dialling) return flow.started_ms + options_.connect_timeout_ms;
  uint64_t last_ms = static_cast<uint64_t>(flow.last_activity_s) * 1000;
  uint64_t due = UINT64_MAX;
  if (flow.is_health_check) due = flow.started_ms + options_.connect_timeout_ms;
  if (options_.idle_timeout_ms) due = std::min(due, last_ms + options_.idle_timeout_ms);
  if (options_.keepalive_ms) {
    uint64_t probe = last_ms + options_.keepalive_ms;
    if (flow.probed_s > flow.last_activity_s)
      probe = (static_cast<uint64_t>(flow.probed_s) + kProbeIntervalS) * 1000;
    due = std::min(due, probe);
  }
  return std::min(due, now_ms_ + kWheelSlots * 1000);
}

void Relay::check_flow(Flow& flow) {
  if (flow.phase == stack::Phase::kDead) return;
  bool is_dialling = flow.upstream_phase != UpstreamPhase::kRelaying && !flow.is_health_check;
  if (is_dialling) {
    if (now_ms_ >= flow.started_ms + options_.connect_timeout_ms)
      return fail(flow, ETIMEDOUT, "no answer from the proxy in time");
    return wheel_insert(flow, next_check_ms(flow));
  }
  uint64_t idle_ms = now_ms_ - static_cast<uint64_t>(flow.last_activity_s) * 1000;
  bool health_is_over =
      flow.is_health_check && now_ms_ >= flow.started_ms + options_.connect_timeout_ms;
  bool idle_is_over = options_.idle_timeout_ms &&
                      idle_ms >= uint64_t{options_.idle_timeout_ms} + kActivityPrecisionMs;
  if (health_is_over || idle_is_over) return abort_app(flow);
  if (options_.keepalive_ms && idle_ms >= options_.keepalive_ms) {
    auto now_s = static_cast<uint32_t>(now_ms_ / 1000);
    if (flow.fd >= 0 && !flow.has_keepalive) {
      flow.has_keepalive = true;
      enable_keepalive(flow.fd, options_.keepalive_ms / 1000 + 1);
    }
    uint32_t unanswered = driver_.probe(flow);
    if (unanswered >= kMaxUnansweredProbes) return abort_app(flow);
    // An answered probe counts as a sign of life, not as traffic: idle time goes on.
    flow.probed_s =
        unanswered == 0 ? now_s + options_.keepalive_ms / 1000 - kProbeIntervalS : now_s;
  }
  wheel_insert(flow, next_check_ms(flow));
}

}  // namespace relay
