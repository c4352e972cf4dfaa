// Sends that leave together at the end of a round (base/write_batch.h).
#include <cerrno>

#include "relay/relay.h"

namespace relay {

// A flow's next send waits for the result of this one. False when it cannot wait.
bool Relay::put_off_send(Flow& flow, std::span<const iovec> parts) {
  int place = sends_.add(flow.fd, parts);
  if (place < 0) return false;
  size_t bytes = 0;
  for (const iovec& part : parts) bytes += part.iov_len;
  senders_.push_back({&flow, bytes, 0});
  flow.is_send_put_off = true;
  return true;
}

void Relay::take_back_send(Flow& flow) {
  flow.is_send_put_off = false;
  for (size_t place = 0; place < senders_.size(); place++) {
    if (senders_[place].flow != &flow) continue;
    sends_.cancel(static_cast<int>(place));
    senders_[place].flow = nullptr;
  }
}

// What becomes of one may bring another: an address of the proxy that answers no more, and the
// next.
void Relay::make_sends() {
  while (sends_.size() > 0) {
    std::span<const int64_t> results = sends_.submit();
    for (size_t place = 0; place < senders_.size(); place++)
      senders_[place].written = static_cast<ssize_t>(results[place]);
    sent_.swap(senders_);
    for (const Sender& sender : sent_) {
      if (!sender.flow) continue;
      sender.flow->is_send_put_off = false;
      on_sent(*sender.flow, sender.written, sender.bytes);
    }
    sent_.clear();
  }
}

void Relay::on_sent(Flow& flow, ssize_t written, size_t bytes) {
  if (flow.phase == stack::Phase::kDead || flow.fd < 0) return;
  if (flow.upstream_phase == UpstreamPhase::kConnecting) {
    if (int error = request_sent(flow, written, bytes)) dial_failed(flow, error);
    return;
  }
  if (written < 0 && written != -EAGAIN && written != -EINTR) return abort_app(flow);
  if (written != -EINTR && written < static_cast<ssize_t>(bytes)) flow.can_write = false;
  if (written > 0) note_sent(flow, static_cast<uint32_t>(written));
  finish_to_upstream(flow);
  if (flow.received_head && flow.can_write) on_work(flow);
  settle(flow);
}

}  // namespace relay
