// What a flow goes by: the name that its address stands for, the name that its first bytes tell, or
// its address.
#include <arpa/inet.h>

#include <cerrno>

#include "relay/relay.h"

extern "C" {
#include "lwip/pbuf.h"
}

namespace relay {
namespace {

constexpr uint16_t kDnsPort = 53;
// Where the server speaks first (SSH, SMTP) the client waits for it; a browser sends at once.
constexpr uint64_t kSilenceMs = 300;
constexpr uint64_t kNameMs = 3000;

}  // namespace

// Its name, if its address stands for one. @return false when it is over
bool Relay::find_destination(Flow& flow) {
  const wire::FlowKey& key = flow.key;
  bool is_virtual = false;
  if (options_.names && options_.names->range().covers(key.destination, key.is_v6())) {
    uint32_t slot = options_.names->range().slot_of(key.destination, key.is_v6());
    is_virtual = slot != wire::VirtualRange::kNone;
    std::string hostname = is_virtual ? options_.names->begin_flow(slot) : std::string();
    if (!hostname.empty()) {
      flow.name = std::make_unique<FlowName>(std::move(hostname), *options_.names, slot);
      return true;
    }
    // Not even the tunnel's own addresses in the range mean anything to the proxy.
    if (is_virtual || !(options_.catches_dns && key.destination_port == htons(kDnsPort))) {
      refuse_unnamed(flow);
      return false;
    }
  }
  flow.is_dns = options_.catches_dns && key.destination_port == htons(kDnsPort);
  return true;
}

// Never sent by number: the program means a name that we have forgotten, or never knew.
void Relay::refuse_unnamed(Flow& flow) {
  stats_.unnamed++;
  events_.on_flow_event(EventKind::kFailed, flow, 0, EADDRNOTAVAIL,
                        "the address stands for no name");
  stack_.refuse(flow);
  flow.was_reset = true;
  kill(flow);
}

// ---- from the first bytes ----

void Relay::start_sniffing(Flow& flow) {
  flow.sniffing = std::make_unique<Sniffing>();
  flow.timers_pending++;
  silent_.push_back({now_ms_ + kSilenceMs, &flow});
}

// Looks at what has come; the bytes stay where they are, for the upstream.
void Relay::sniff(Flow& flow) {
  if (!flow.pcb || flow.was_reset) return;
  Sniffing& sniffing = *flow.sniffing;
  auto state = Sniffer::State::kMore;
  const pbuf* p = sniffing.last_fed ? sniffing.last_fed->next : flow.received_head;
  for (; p && state == Sniffer::State::kMore; p = p->next) {
    state = sniffing.sniffer.feed({static_cast<const uint8_t*>(p->payload), p->len});
    sniffing.last_fed = p;
  }
  if (state == Sniffer::State::kFound)
    flow.name = std::make_unique<FlowName>(sniffing.sniffer.name());
  if (state != Sniffer::State::kMore || flow.app_finished) stop_sniffing(flow);
}

void Relay::stop_sniffing(Flow& flow) {
  flow.sniffing.reset();
  dial(flow);
}

void Relay::run_sniff_limits() {
  // Nearly every flow has told its name by the first limit, so few wait for the second, and what is
  // over is freed soon.
  auto run = [&](std::deque<Due>& queue, bool is_last) {
    while (!queue.empty() && queue.front().due_ms <= now_ms_) {
      Flow& flow = *queue.front().flow;
      queue.pop_front();
      flow.timers_pending--;
      if (flow.phase == stack::Phase::kDead) {
        if (!flow.timers_pending) bury(flow);
      } else if (flow.sniffing && flow.pcb && !flow.was_reset) {
        if (is_last || !flow.sniffing->last_fed) {
          stop_sniffing(flow);
        } else {
          flow.timers_pending++;
          slow_.push_back({now_ms_ + kNameMs - kSilenceMs, &flow});
        }
      }
    }
  };
  run(silent_, false);
  run(slow_, true);
}

}  // namespace relay
