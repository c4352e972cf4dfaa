// Connections to the proxy that are open before anybody needs them: saves a dial its first round
// trip. Used only with a proxy that was seen to leave an idle connection open (learned, not
// assumed).
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/unique_fd.h"
#include "relay/dialer.h"
#include "relay/socket_watch.h"

namespace relay {

struct IdleSocket {
  base::UniqueFd fd;
  uint64_t opened_ms = 0;
  bool is_connected = false;
};

class Predialer {
 public:
  Predialer(Dialer& dialer, SocketWatch& sockets, uint32_t wanted)
      : dialer_(dialer), sockets_(sockets), wanted_(wanted) {}

  /// A connected socket, watched already; -1 when there is none.
  int take();
  /// epoll says something about a socket that is no flow's, ours perhaps.
  void on_socket(int fd, uint32_t events, uint64_t now_ms);
  /// Opens what is missing. Call about once a second and after take().
  void refill(const UpstreamAddress& upstream, uint64_t now_ms);
  /// A socket from take() was closed by the proxy before it answered.
  void note_stale(uint64_t now_ms) { distrust(now_ms); }
  void close_all();

  bool is_trusted() const { return is_trusted_; }
  size_t size() const { return idle_.size(); }

 private:
  void open_one(const UpstreamAddress& upstream, uint64_t now_ms);
  void note_connected(IdleSocket& socket);
  void remove(int fd);
  void distrust(uint64_t now_ms);

  Dialer& dialer_;
  SocketWatch& sockets_;
  uint32_t wanted_;
  std::vector<IdleSocket> idle_;
  bool is_trusted_ = false;
  uint64_t not_before_ms_ = 0;  // no trial before
  uint64_t backoff_ms_ = 0;
};

}  // namespace relay
