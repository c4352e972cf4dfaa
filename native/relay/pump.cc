// Bytes of a flow, both ways, with as few copies and system calls as there are to be had.
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>

#include "relay/relay.h"

extern "C" {
#include "lwip/pbuf.h"
}

namespace relay {
namespace {

constexpr int kMaxGather = 32;
constexpr int kReadRounds = 16;                      // of one flow before others get their turn
constexpr uint32_t kCopyUpTo = 16 * 1024;            // smaller reads are copied into lwIP
constexpr uint32_t kMaxUnsent = 128 * 1024;          // stop reading when the app's window is shut
constexpr uint32_t kMaxQueuedPerFlow = 2048 * 1024;  // sent and unacknowledged included
constexpr uint32_t kMinShare = 64 * 1024;
// More than fits into a processor's cache makes a hundred downloads slower, not faster
// (docs/performance.md); but no flow needs less than this at a time to be quick.
constexpr uint64_t kInFlight = 16 << 20;
constexpr uint64_t kEnoughPerFlow = 256 * 1024;
constexpr uint32_t kScarceRead = 4096;  // what an empty flow may always read, so that none starves
constexpr uint32_t kAckAtOnce = 8192;   // larger requests are acknowledged without delay
constexpr uint64_t kHeldAckMs = 2;

}  // namespace

// ---- app -> upstream ----

void Relay::pump_to_upstream(Flow& flow) {
  if (flow.upstream_phase != UpstreamPhase::kRelaying || flow.is_send_put_off) return;
  send_received(flow);
  if (!flow.is_send_put_off) finish_to_upstream(flow);
}

void Relay::send_received(Flow& flow) {
  uint32_t total = 0;
  while (flow.received_head && flow.can_write && flow.fd >= 0) {
    iovec parts[kMaxGather];
    int count = 0;
    size_t want = 0;
    uint32_t skip = total;  // sent already, but freed only below
    for (pbuf* p = flow.received_head; p && count < kMaxGather; p = p->next) {
      if (skip >= p->len) {
        skip -= p->len;
        continue;
      }
      parts[count++] = {static_cast<uint8_t*>(p->payload) + skip, p->len - skip};
      want += p->len - skip;
      skip = 0;
    }
    if (count == 0) break;
    // Nagle (RFC 896) holds nothing back that is sent alone: many flows send once and need no more.
    if (flow.has_sent && !flow.sends_without_delay) {
      flow.sends_without_delay = true;
      send_without_delay(flow.fd);
    }
    flow.has_sent = true;
    if (total == 0 && put_off_send(flow, {parts, static_cast<size_t>(count)})) return;
    // A lone stream's sender works on while we send; of several one always has something to do.
    if (want >= kAckAtOnce && is_only_large_sender(flow)) driver_.submit_packets();
    msghdr message{};
    message.msg_iov = parts;
    message.msg_iovlen = static_cast<size_t>(count);
    ssize_t n = count == 1 ? send(flow.fd, parts[0].iov_base, parts[0].iov_len, MSG_NOSIGNAL)
                           : sendmsg(flow.fd, &message, MSG_NOSIGNAL);
    if (n < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN) return abort_app(flow);
      flow.can_write = false;
      break;
    }
    total += static_cast<uint32_t>(n);
    if (static_cast<size_t>(n) < want) flow.can_write = false;
  }
  if (total > 0) note_sent(flow, total);
}

void Relay::note_sent(Flow& flow, uint32_t bytes) {
  flow.to_upstream_bytes += bytes;
  stop_gathering(flow);
  stats_.to_upstream_bytes += bytes;
  touch(flow);
  driver_.consumed(flow, bytes);
  if (!driver_.wants_ack(flow)) return;
  if (bytes >= kAckAtOnce) {
    driver_.ack_now(flow);
  } else {
    hold_ack(flow);  // the answer will carry it
  }
}

bool Relay::is_only_large_sender(const Flow& flow) {
  if (large_sender_ && large_sender_ != &flow) has_several_large_senders_ = true;
  large_sender_ = &flow;
  return !has_several_large_senders_ && !had_several_large_senders_;
}

void Relay::finish_to_upstream(Flow& flow) {
  if (flow.received_head || !flow.app_finished || flow.fin_to_upstream || flow.fd < 0) return;
  flow.fin_to_upstream = true;
  // With its FIN read already, close() follows at once and sends ours.
  if (!flow.upstream_finished) shutdown(flow.fd, SHUT_WR);
}

void Relay::hold_ack(Flow& flow) {
  if (flow.ack_is_held) return;
  flow.ack_is_held = true;
  flow.timers_pending++;
  held_acks_.push_back({now_ms_ + kHeldAckMs, &flow});
}

void Relay::send_held_acks() {
  while (!held_acks_.empty() && held_acks_.front().due_ms <= now_ms_) {
    Flow& flow = *held_acks_.front().flow;
    held_acks_.pop_front();
    flow.ack_is_held = false;
    flow.timers_pending--;
    if (flow.phase == stack::Phase::kDead) {
      if (!flow.timers_pending) bury(flow);
    } else if (driver_.wants_ack(flow)) {
      driver_.ack_now(flow);
    }
  }
}

// ---- upstream -> app ----

void Relay::settle_acks(Flow& flow) {
  uint64_t fresh = flow.acked_bytes - flow.settled_acks;
  if (fresh == 0) return;
  flow.settled_acks = flow.acked_bytes;
  if (!flow.is_health_check) queued_bytes_ -= fresh;
  touch(flow);
  while (flow.send_head && flow.send_head->end <= flow.acked_bytes) {
    SendBuffer* buffer = flow.send_head;
    flow.send_head = buffer->next;
    send_buffers_.give(buffer);
    buffers_in_use_--;
  }
  if (flow.is_sending && flow.acked_bytes == flow.written_bytes) {
    flow.is_sending = false;
    sending_flows_--;
  }
}

void Relay::drop_send_queue(Flow& flow) {
  settle_acks(flow);
  if (!flow.is_health_check) queued_bytes_ -= flow.written_bytes - flow.settled_acks;
  flow.settled_acks = flow.written_bytes;
  while (SendBuffer* buffer = flow.send_head) {
    flow.send_head = buffer->next;
    send_buffers_.give(buffer);
    buffers_in_use_--;
  }
  if (flow.is_sending) sending_flows_--;
  flow.is_sending = false;
}

// Bytes that may be read from the upstream now. Each sending flow has a fair share of the budget;
// one that has nothing under way may always read a little, so that stalled flows cannot starve it.
uint32_t Relay::read_allowance(const Flow& flow) const {
  if (driver_.unsent_bytes(flow) >= kMaxUnsent) return 0;
  uint64_t held = std::max<uint64_t>(queued_bytes_, buffers_in_use_ * sizeof(SendBuffer));
  uint64_t queued = flow.written_bytes - flow.settled_acks;
  if (held >= options_.send_limit) return queued == 0 ? kScarceRead : 0;
  uint64_t flows = std::max<uint64_t>(sending_flows_, 1);
  uint64_t enough = std::max(kInFlight / flows, kEnoughPerFlow);
  uint64_t share = std::min(options_.send_limit / flows, enough);
  share = std::clamp<uint64_t>(share, kMinShare, kMaxQueuedPerFlow);
  if (queued >= share) return 0;
  return driver_.send_room(flow, static_cast<uint32_t>(share));
}

// Hands `length` bytes of a buffer to lwIP; takes the buffer (sets it null) unless they were
// copied.
bool Relay::queue_to_app(Flow& flow, SendBuffer*& buffer, uint32_t length) {
  bool copies = length <= kCopyUpTo;
  if (!driver_.write(flow, buffer->data, length, copies)) return false;
  flow.written_bytes += length;
  queued_bytes_ += length;
  if (copies) return true;
  buffer->end = flow.written_bytes;
  buffer->next = nullptr;
  (flow.send_head ? flow.send_tail->next : flow.send_head) = buffer;
  flow.send_tail = buffer;
  buffers_in_use_++;
  buffer = nullptr;
  return true;
}

void Relay::pump_to_app(Flow& flow) {
  if (flow.upstream_phase != UpstreamPhase::kRelaying || !flow.can_read || flow.upstream_finished ||
      flow.fd < 0 || !flow.pcb || flow.in_time_wait)
    return;
  bool wrote = false;
  for (int round = 0; round < kReadRounds; round++) {
    uint32_t allowance = read_allowance(flow);
    if (allowance == 0) {
      hold_back(flow, true);
      break;
    }
    uint32_t chunk = std::min(driver_.preferred_write(flow), allowance);
    // A flow that fills what it is given is given more: large reads are what makes many downloads
    // at once cheap (docs/performance.md), small ones what keeps a question and answer quick.
    uint32_t chunks = std::clamp<uint32_t>((allowance + chunk - 1) / chunk, 1, flow.read_chunks);
    uint32_t wanted = std::min(chunk * chunks, allowance);
    iovec parts[kReadChunks];
    for (uint32_t i = 0; i < chunks; i++) {
      if (!scratch_[i] && !(scratch_[i] = send_buffers_.take())) return;
      parts[i] = {scratch_[i]->data, std::min(chunk, wanted - i * chunk)};
    }
    msghdr message{};
    message.msg_iov = parts;
    message.msg_iovlen = chunks;
    ssize_t n =
        chunks == 1 ? recv(flow.fd, parts[0].iov_base, wanted, 0) : recvmsg(flow.fd, &message, 0);
    if (n < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN) return abort_app(flow);
      flow.can_read = false;
      break;
    }
    if (n == 0) {
      flow.upstream_finished = true;
      flow.can_read = false;
      break;
    }
    wrote = true;
    hold_back(flow, false);
    touch(flow);
    note_read(flow, static_cast<uint32_t>(n));
    stats_.to_app_bytes += static_cast<uint64_t>(n);
    if (!flow.is_sending) {
      flow.is_sending = true;
      sending_flows_++;
    }
    auto left = static_cast<uint32_t>(n);
    for (uint32_t i = 0; left > 0; i++) {
      uint32_t length = std::min(left, chunk);
      left -= length;
      if (!queue_to_app(flow, scratch_[i], length)) return abort_app(flow);
      // Keep the pipe busy. A short rest is flushed below, together with a FIN that may be next; so
      // is what leaves in one large packet.
      if (length == chunk && !driver_.sends_large_packets(flow)) driver_.flush(flow);
      if (!flow.pcb) return settle(flow);
    }
    bool was_full = static_cast<uint32_t>(n) == wanted;
    if (was_full && chunks == flow.read_chunks) {
      flow.read_chunks = std::min<uint8_t>(static_cast<uint8_t>(flow.read_chunks * 4), kReadChunks);
    } else if (static_cast<uint32_t>(n) < chunk) {
      flow.read_chunks = 1;
    }
    if (!was_full && (!flow.upstream_hung_up || flow.has_end_in_queue)) {
      flow.upstream_finished = flow.has_end_in_queue;
      flow.can_read = false;
      break;
    }
  }
  if (wrote && !flow.upstream_finished) driver_.flush(flow);
  // The round budget is used up, not the data: go on in the next round.
  if (flow.can_read && flow.pcb && !flow.upstream_finished && read_allowance(flow) > 0)
    on_work(flow);
}

void Relay::hold_back(Flow& flow, bool is_held_back) {
  if (flow.is_held_back == is_held_back) return;
  flow.is_held_back = is_held_back;
  held_back_flows_ += is_held_back ? 1 : -1;
}

void Relay::finish_to_app(Flow& flow) {
  if (!flow.upstream_finished || flow.fin_to_app || !flow.pcb || flow.in_time_wait) return;
  flow.fin_to_app = driver_.finish(flow);
  if (!flow.fin_to_app) driver_.flush(flow);
}

}  // namespace relay
