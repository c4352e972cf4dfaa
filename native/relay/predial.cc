// Connections to the proxy that are open before anybody needs them.
#include "relay/predial.h"

#include <sys/epoll.h>

#include <algorithm>

namespace relay {
namespace {

// A proxy that closes idle connections sooner than this is not worth courting.
constexpr uint64_t kProvenAfterMs = 2000;
constexpr uint64_t kFirstBackoffMs = 10'000;
constexpr uint64_t kLongestBackoffMs = 600'000;

}  // namespace

int Predialer::take() {
  if (!is_trusted_) return -1;
  for (size_t i = idle_.size(); i-- > 0;) {  // the youngest is the least likely to be closed soon
    if (!idle_[i].is_connected) continue;
    int fd = idle_[i].fd.release();
    idle_.erase(idle_.begin() + static_cast<std::ptrdiff_t>(i));
    return fd;
  }
  return -1;
}

void Predialer::on_socket(int fd, uint32_t events, uint64_t now_ms) {
  auto known = std::find_if(idle_.begin(), idle_.end(),
                            [&](const IdleSocket& socket) { return socket.fd.get() == fd; });
  if (known == idle_.end()) return;  // taken or closed earlier in this batch
  // Data before a request is as bad as an end: either way it is no use.
  if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) {
    bool was_short = now_ms - known->opened_ms < kProvenAfterMs;
    remove(fd);
    if (was_short) distrust(now_ms);
    return;
  }
  if (events & EPOLLOUT) note_connected(*known);
}

void Predialer::refill(const UpstreamAddress& upstream, uint64_t now_ms) {
  if (wanted_ == 0 || now_ms < not_before_ms_) return;
  for (const auto& socket : idle_) {
    if (socket.is_connected && now_ms - socket.opened_ms >= kProvenAfterMs) {
      is_trusted_ = true;
      backoff_ms_ = 0;
    }
  }
  size_t target = is_trusted_ ? wanted_ : 1;  // one on trial
  while (idle_.size() < target) {
    size_t before = idle_.size();
    open_one(upstream, now_ms);
    if (idle_.size() == before) return;
  }
}

void Predialer::open_one(const UpstreamAddress& upstream, uint64_t now_ms) {
  bool in_progress = false;
  int fd = dialer_.dial(upstream, in_progress);
  if (fd < 0) {
    distrust(now_ms);
    return;
  }
  IdleSocket socket{base::UniqueFd(fd), now_ms};
  if (!in_progress) note_connected(socket);
  if (sockets_.watch(fd, nullptr) == 0) idle_.push_back(std::move(socket));
}

// No request follows at once that could carry the handshake's last ACK, as SocketDialer::dial() has
// arranged: without it the proxy would not see the connection for another 200 ms.
void Predialer::note_connected(IdleSocket& socket) {
  if (!socket.is_connected) acknowledge_now(socket.fd.get());
  socket.is_connected = true;
}

void Predialer::remove(int fd) {
  std::erase_if(idle_, [&](const IdleSocket& socket) { return socket.fd.get() == fd; });
}

void Predialer::distrust(uint64_t now_ms) {
  is_trusted_ = false;
  backoff_ms_ = std::clamp(backoff_ms_ * 2, kFirstBackoffMs, kLongestBackoffMs);
  not_before_ms_ = now_ms + backoff_ms_;
  close_all();
}

void Predialer::close_all() { idle_.clear(); }

}  // namespace relay
