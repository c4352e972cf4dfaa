// The upstream proxy's side: one end of each connection that the relay dials, worked by the test.
#include "proxy_side.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <csignal>

namespace lab {
namespace {

constexpr size_t kReadBytes = 65536;

}  // namespace

// ---- one end ----

void ProxyEnd::send(std::span<const uint8_t> data) {
  out_.insert(out_.end(), data.begin(), data.end());
  pump_out();
}

void ProxyEnd::send(std::string_view text) {
  send({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
}

void ProxyEnd::send_urgent(uint8_t byte) { ::send(fd_.get(), &byte, 1, MSG_OOB | MSG_NOSIGNAL); }

void ProxyEnd::finish() {
  fin_wanted_ = true;
  pump_out();
}

void ProxyEnd::reset() {
  linger hard{1, 0};
  setsockopt(fd_.get(), SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
  fd_.reset();
}

void ProxyEnd::establish() {
  char buffer[kReadBytes];
  while (filler_bytes_ > 0) {
    ssize_t n = recv(fd_.get(), buffer, std::min(sizeof buffer, filler_bytes_), MSG_DONTWAIT);
    if (n <= 0) return;
    filler_bytes_ -= static_cast<size_t>(n);
  }
}

std::string ProxyEnd::authority() const {
  size_t start = request_.find(' ');
  if (start == std::string::npos) return {};
  return request_.substr(start + 1, request_.find(' ', start + 1) - start - 1);
}

bool ProxyEnd::pump() {
  if (!fd_ || filler_bytes_ > 0) return false;
  bool sent = pump_out();
  return pump_in() || sent;
}

bool ProxyEnd::pump_out() {
  bool moved = false;
  while (fd_ && out_at_ < out_.size()) {
    ssize_t n = ::send(fd_.get(), out_.data() + out_at_, out_.size() - out_at_,
                       MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0) {
      if (errno != EAGAIN) error = errno;
      return moved;
    }
    moved = true;
    out_at_ += static_cast<size_t>(n);
    sent_bytes += static_cast<uint64_t>(n);
  }
  if (out_at_ == out_.size()) {
    out_.clear();
    out_at_ = 0;
  }
  if (fd_ && fin_wanted_ && !fin_sent_ && out_.empty()) {
    fin_sent_ = true;
    shutdown(fd_.get(), SHUT_WR);
    return true;
  }
  return moved;
}

bool ProxyEnd::pump_in() {
  if ((!reads_ && has_request_) || has_eof || error) return false;
  uint8_t buffer[kReadBytes];
  bool moved = false;
  while (fd_) {
    ssize_t n = recv(fd_.get(), buffer, sizeof buffer, MSG_DONTWAIT);
    if (n < 0) {
      if (errno != EAGAIN) error = errno;
      return moved || (error != 0);
    }
    if (n == 0) {
      has_eof = true;
      return true;
    }
    moved = true;
    auto got = static_cast<size_t>(n);
    size_t used = 0;
    while (!has_request_ && used < got) {
      request_.push_back(static_cast<char>(buffer[used++]));
      has_request_ = request_.ends_with(is_dns ? "\r\n" : "\r\n\r\n");
    }
    received.insert(received.end(), buffer + used, buffer + got);
    if (!reads_) return moved;
  }
  return moved;
}

// ---- all of them ----

ProxySide::ProxySide() {
  signal(SIGPIPE, SIG_IGN);  // as node does it
  listener_.reset(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address);
  listen(listener_.get(), 128);
  getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &length);
  port_ = ntohs(address.sin_port);
}

int ProxySide::dial(const relay::UpstreamAddress& upstream, bool& in_progress) {
  dials++;
  in_progress = false;
  if (upstream.address.ss_family == AF_UNIX) {
    if (dns_error) return -dns_error;
    in_progress = how == Dial::kLater;
    int fd = dial_pair(in_progress);
    if (fd >= 0) ends.back()->is_dns = true;
    return fd;
  }
  uint16_t port = ntohs(reinterpret_cast<const sockaddr_in*>(&upstream.address)->sin_port);
  bool fails = std::find(failing_ports.begin(), failing_ports.end(), port) != failing_ports.end();
  if (how == Dial::kError || fails) return -next_error;
  in_progress = how == Dial::kLater;
  int fd = how == Dial::kTcp ? dial_tcp(in_progress) : dial_pair(how == Dial::kLater);
  if (fd < 0) return fd;
  ends.back()->dialled_address = port;
  ends.back()->relay_fd = fd;
  if (how == Dial::kGone) ends.back()->close();
  return fd;
}

int ProxySide::dial_pair(bool is_later) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) < 0) return -errno;
  ends.push_back(std::make_unique<ProxyEnd>(base::UniqueFd(pair[1])));
  if (engine_send_buffer)
    setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &engine_send_buffer, sizeof engine_send_buffer);
  // Like a connection that is being made, a full one takes no byte and is not writable.
  static constexpr char kFiller[kReadBytes] = {};
  while (is_later) {
    ssize_t n = ::send(pair[0], kFiller, sizeof kFiller, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0) break;
    ends.back()->filler_bytes_ += static_cast<size_t>(n);
  }
  return pair[0];
}

int ProxySide::dial_tcp(bool& in_progress) {
  base::UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return -errno;
  relay::UpstreamAddress to = upstream_address(port_);
  if (connect(fd.get(), reinterpret_cast<sockaddr*>(&to.address), to.length) < 0) {
    if (errno != EINPROGRESS) return -errno;
    in_progress = true;
  }
  pollfd wait{listener_.get(), POLLIN, 0};
  poll(&wait, 1, 5000);
  int accepted = accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (accepted < 0) return -errno;
  int one = 1;
  setsockopt(accepted, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  ends.push_back(std::make_unique<ProxyEnd>(base::UniqueFd(accepted)));
  return fd.release();
}

bool ProxySide::pump() {
  bool moved = false;
  for (auto& end : ends) moved |= end->pump();
  return moved;
}

relay::UpstreamAddress upstream_address(uint16_t port) {
  relay::UpstreamAddress out;
  auto* in = reinterpret_cast<sockaddr_in*>(&out.address);
  in->sin_family = AF_INET;
  in->sin_port = htons(port);
  in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  out.length = sizeof *in;
  return out;
}

}  // namespace lab
