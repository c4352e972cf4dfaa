// The way to the proxy: addresses one after the other, connections that are open already, the
// CONNECT request and its reply.
#include <sys/socket.h>

#include <cerrno>

#include "relay/relay.h"

namespace relay {
namespace {

constexpr size_t kReplyReadBytes = 4096;

}  // namespace

void Relay::dial(Flow& flow) {
  if (flow.is_dns) return dial_dns(flow);
  if (upstreams_.empty()) return fail(flow, EDESTADDRREQ, "no upstream address");
  flow.upstream_index = static_cast<uint8_t>(preferred_upstream_ % upstreams_.size());
  flow.addresses_tried = 0;
  if (!use_predialled(flow)) dial_next_address(flow);
}

void Relay::dial_dns(Flow& flow) {
  if (int error = start_dial(flow, options_.dns_socket)) return dial_failed(flow, error);
  if (flow.upstream_phase == UpstreamPhase::kAsked) succeed(flow, {});
}

// True when the request went out on a connection that was open already.
bool Relay::use_predialled(Flow& flow) {
  if (options_.predial == 0) return false;
  int fd = predialer_.take();
  if (fd < 0) return false;
  flow.fd = fd;
  flow.is_predialled = true;
  flow.can_write = true;
  flow.upstream_phase = UpstreamPhase::kConnecting;
  bool is_asked = sockets_.watch(fd, &flow) == 0 && send_request(flow) == 0;
  if (is_asked) stats_.predialled++;
  refill_predialled();
  if (is_asked) return true;
  close_socket(flow);
  flow.is_predialled = false;
  return false;
}

void Relay::refill_predialled() {
  if (options_.predial > 0 && !upstreams_.empty())
    predialer_.refill(upstreams_[preferred_upstream_ % upstreams_.size()], now_ms_);
}

// No byte of an answer. On a connection that was open before, the proxy may just have closed it for
// being idle: that is our mistake, so dial as if it had never been.
void Relay::reply_is_missing(Flow& flow, int error, std::string_view text) {
  if (!flow.is_predialled || flow.reply) return fail(flow, error, text);
  predialer_.note_stale(now_ms_);
  close_socket(flow);
  flow.is_predialled = false;
  flow.upstream_phase = UpstreamPhase::kNone;
  dial_next_address(flow);
}

// Tries one address of the proxy after the other until a dial is under way or none is left.
void Relay::dial_next_address(Flow& flow) {
  int error = EDESTADDRREQ;
  while (flow.addresses_tried < upstreams_.size()) {
    error = start_dial(flow, upstreams_[flow.upstream_index % upstreams_.size()]);
    if (error == 0) return;
    if (error == EMFILE || error == ENFILE) return fail(flow, error, "out of file descriptors");
    give_up_address(flow);
  }
  fail(flow, error, "cannot reach the proxy");
}

// @return 0 when a dial is under way, else errno
int Relay::start_dial(Flow& flow, const UpstreamAddress& to) {
  bool in_progress = false;
  flow.can_read = flow.upstream_hung_up = flow.has_end_in_queue = false;
  int fd = dialer_.dial(to, in_progress);
  if (fd < 0) return -fd;
  flow.fd = fd;
  flow.upstream_phase = UpstreamPhase::kConnecting;
  // On a near proxy the handshake is over by now: saves an epoll round.
  flow.can_write = true;
  if (int error = send_request(flow)) return error;
  return sockets_.watch(fd, &flow);
}

void Relay::dial_failed(Flow& flow, int error) {
  if (flow.is_dns) {
    close_socket(flow);
    return fail(flow, error, "cannot reach the DNS server of the tunnel");
  }
  give_up_address(flow);
  if (flow.addresses_tried >= upstreams_.size()) return fail(flow, error, "cannot reach the proxy");
  dial_next_address(flow);
}

void Relay::give_up_address(Flow& flow) {
  close_socket(flow);
  flow.upstream_phase = UpstreamPhase::kNone;
  flow.addresses_tried++;
  if (upstreams_.empty()) return;  // taken away meanwhile
  flow.upstream_index = static_cast<uint8_t>((flow.upstream_index + 1) % upstreams_.size());
}

// @return 0 when sent or to be sent later, else errno
int Relay::send_request(Flow& flow) {
  std::string request =
      flow.is_dns ? proxy_protocol_line(flow.key)
                  : connect_request(options_.request, authority_of(flow.key, flow.hostname()));
  // Whether a connection that was open before is still good must be known at once.
  bool can_wait = !flow.is_dns && !flow.is_predialled;
  iovec part{request.data(), request.size()};
  if (can_wait && put_off_send(flow, {&part, 1})) return 0;
  ssize_t n = send(flow.fd, request.data(), request.size(), MSG_NOSIGNAL);
  return request_sent(flow, n < 0 ? -errno : n, request.size());
}

// @param written bytes, or -errno. @return 0 when sent or to be sent later, else errno
int Relay::request_sent(Flow& flow, ssize_t written, size_t bytes) {
  if (written == static_cast<ssize_t>(bytes)) {
    flow.upstream_phase = UpstreamPhase::kAsked;
    if (!flow.is_dns) preferred_upstream_ = flow.upstream_index;
    return 0;
  }
  // A request is a few hundred bytes into an empty socket buffer: a short write means it is broken.
  if (written >= 0) return EPIPE;
  if (written != -EAGAIN && written != -ENOTCONN && written != -EINPROGRESS && written != -EALREADY)
    return static_cast<int>(-written);
  flow.can_write = false;
  return 0;
}

void Relay::read_reply(Flow& flow) {
  uint8_t buffer[kReplyReadBytes];
  while (flow.can_read && flow.upstream_phase == UpstreamPhase::kAsked) {
    ssize_t n = recv(flow.fd, buffer, sizeof buffer, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) {
      flow.can_read = false;
      return;
    }
    if (n < 0) return reply_is_missing(flow, errno, "reading the proxy's reply");
    if (n == 0) return reply_is_missing(flow, ECONNRESET, "the proxy closed without an answer");
    if (!flow.reply) flow.reply = std::make_unique<ConnectReply>();
    size_t rest = 0;
    auto got = static_cast<size_t>(n);
    // A short read drained the socket; epoll tells of more, and an end told of must still be read.
    if (got < sizeof buffer && !flow.upstream_hung_up) flow.can_read = false;
    switch (flow.reply->feed({buffer, got}, rest)) {
      case ConnectReply::State::kIncomplete: break;
      case ConnectReply::State::kMalformed: return fail(flow, EPROTO, "the answer is not HTTP");
      case ConnectReply::State::kTooLong: return fail(flow, EMSGSIZE, "reply head over 64 KiB");
      case ConnectReply::State::kComplete:
        if (!flow.reply->is_success())
          return refuse(flow, flow.reply->status(), flow.reply->head());
        return succeed(flow, {buffer + rest, got - rest});
    }
  }
}

}  // namespace relay
