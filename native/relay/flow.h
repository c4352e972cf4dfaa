// One application connection and its upstream socket.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "relay/connect_reply.h"
#include "relay/sniff.h"
#include "stack/name_table.h"
#include "stack/stack.h"

namespace relay {

/// Data of the upstream on its way to the app; lwIP refers to it until the app acknowledges.
struct SendBuffer {
  static constexpr uint32_t kBytes = 65536;
  SendBuffer* next;
  uint64_t end;  // stream offset behind its last byte
  uint8_t data[kBytes];
};

/// The name that a flow asks for in place of its address. While it lives, the address it came by,
/// if that stands for the name, is given to no other.
struct FlowName {
  explicit FlowName(std::string name) : hostname(std::move(name)) {}
  FlowName(std::string name, stack::NameTable& from, uint32_t by_slot)
      : hostname(std::move(name)), table(&from), slot(by_slot) {}
  FlowName(const FlowName&) = delete;
  FlowName& operator=(const FlowName&) = delete;
  ~FlowName() {
    if (table) table->end_flow(slot);
  }

  std::string hostname;
  stack::NameTable* table = nullptr;  // null: no address stands for it
  uint32_t slot = 0;
};

/// A flow that is not dialled before its first bytes have told a name, or that they tell none.
struct Sniffing {
  Sniffer sniffer;
  const pbuf* last_fed = nullptr;  // in Flow::received_head's list, which nobody takes from yet
};

enum class UpstreamPhase : uint8_t {
  kNone,        // not dialled, or closed
  kConnecting,  // connect(2) under way
  kAsked,       // CONNECT sent
  kRelaying,
};

struct Flow : stack::Connection {
  int fd = -1;
  UpstreamPhase upstream_phase = UpstreamPhase::kNone;
  uint8_t upstream_index = 0;  // in the list of the proxy's addresses
  uint8_t addresses_tried = 0;
  bool can_read : 1 = false;  // edge-triggered: true until EAGAIN says otherwise
  bool can_write : 1 = false;
  bool upstream_hung_up : 1 = false;
  bool has_end_in_queue : 1 = false;   // its FIN waits behind what can be read, and no urgent mark
  bool upstream_finished : 1 = false;  // its FIN was read
  bool fin_to_app : 1 = false;         // ours is queued in lwIP
  bool fin_to_upstream : 1 = false;    // shutdown(SHUT_WR) done
  bool ack_is_held : 1 = false;        // in the queue of ACKs that wait for an answer to ride on
  bool is_health_check : 1 = false;
  bool has_keepalive : 1 = false;    // the kernel probes the upstream
  bool has_sent : 1 = false;         // bytes of the app
  bool is_send_put_off : 1 = false;  // until the round's end, see Relay::put_off_send()
  bool sends_without_delay : 1 = false;
  bool is_predialled : 1 = false;      // its socket was open before
  bool is_sending : 1 = false;         // has unacknowledged bytes towards the app
  bool has_bounded_queue : 1 = false;  // of the kernel, towards us
  bool is_held_back : 1 = false;       // its upstream has bytes that may not be read yet
  bool is_counted_active : 1 = false;
  bool is_dns : 1 = false;       // goes to the DNS socket, not to the proxy
  bool is_gathered : 1 = false;  // the kernel tells of much, or of an end
  bool is_in_gather_queue : 1 = false;
  bool has_read_lately : 1 = false;  // since check_gathered() looked at it
  bool is_buried : 1 = false;        // in the list of flows about to be freed
  std::unique_ptr<ConnectReply> reply;
  std::unique_ptr<FlowName> name;  // null: it goes by its address
  std::unique_ptr<Sniffing> sniffing;

  std::string_view hostname() const { return name ? name->hostname : std::string_view(); }

  SendBuffer* send_head = nullptr;
  SendBuffer* send_tail = nullptr;
  uint64_t written_bytes = 0;  // towards the app
  uint64_t settled_acks = 0;   // of acked_bytes, already accounted for
  uint64_t to_upstream_bytes = 0;
  uint32_t stream_bytes = 0;  // to the app since it last said something; not all of a long stream

  uint64_t started_ms = 0;
  uint32_t last_activity_s = 0;
  uint32_t probed_s = 0;  // last keepalive probe
  Flow* wheel_next = nullptr;
  Flow* wheel_previous = nullptr;
  uint8_t wheel_slot = 0;
  uint8_t read_chunks = 1;
};

}  // namespace relay
