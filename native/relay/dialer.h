// Upstream sockets: made, marked and connected, and the CONNECT request written.
#pragma once
#include <netinet/in.h>
#include <sys/socket.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "relay/near_path.h"
#include "wire/flow_key.h"

namespace relay {

/// Of the proxy; also the unix socket where DNS streams are served.
struct UpstreamAddress {
  sockaddr_storage address{};
  socklen_t length = 0;
};

/// The request around the authority; built by src/proxy/connect.ts.
struct RequestTemplate {
  std::string head;
  std::string middle;
  std::string tail;
};

class Dialer {
 public:
  virtual ~Dialer() = default;
  /// A non-blocking socket that is connecting, or -errno. `in_progress` is false once connected.
  virtual int dial(const UpstreamAddress& upstream, bool& in_progress) = 0;
  /// Of a socket of dial() that the proxy has answered on: what can be learnt for the next ones.
  virtual void note_connected(int) {}
  /// Takes a socket of dial() that has read the other end's FIN and has nothing more to send, with
  /// the options that dial() gave it. It may be dialled again, in the epoll sets where it is.
  virtual void recycle(base::UniqueFd) {}
  /// Closes the recycled sockets that nobody needed since the last call, a second or so ago.
  virtual void trim() {}
  virtual bool has_spares() const { return false; }
};

class SocketDialer final : public Dialer {
 public:
  /// Of the process's limit of descriptors, as it is now, the last ones are left to others.
  explicit SocketDialer(uint32_t fwmark, NearPath near_path = NearPath());
  int dial(const UpstreamAddress& upstream, bool& in_progress) override;
  void note_connected(int fd) override;
  void recycle(base::UniqueFd fd) override;
  void trim() override;
  bool has_spares() const override { return !spares_.empty(); }

 private:
  base::UniqueFd take_spare();
  base::Result<base::UniqueFd> make_socket(int family);

  uint32_t fwmark_;
  int first_reserved_;
  NearPath near_path_;
  std::vector<base::UniqueFd> spares_;  // oldest first
  size_t least_spares_ = 0;             // since the last trim()
};

/// TCP_QUICKACK, tcp(7): sends an acknowledgement that waits for data to ride on.
void acknowledge_now(int fd);

/// TCP_NODELAY, tcp(7).
void send_without_delay(int fd);

/// Keepalive probes of the kernel's after `idle_s` seconds. Called once a socket has been idle that
/// long, so that short connections do not pay four system calls for it.
void enable_keepalive(int fd, uint32_t idle_s);

/// Ends the growth of the socket's receive queue: about `bytes` at a time, socket(7) SO_RCVBUF.
void limit_receive_queue(int fd, uint32_t bytes);

/// epoll tells of the socket when so many bytes wait, or all of them that will come: SO_RCVLOWAT,
/// socket(7). False when the kernel refuses.
bool tell_when(int fd, uint32_t bytes);

/// `203.0.113.5:443`, `[2001:db8::1]:443`, or with a hostname `example.org:443`.
std::string authority_of(const wire::FlowKey& key, std::string_view hostname = {});

std::string connect_request(const RequestTemplate& request, std::string_view authority);

/// A unix stream socket. length 0 when the path is too long.
UpstreamAddress unix_address(std::string_view path);

/// Whose connection it is, for a server behind us: `PROXY TCP4 192.0.2.1 203.0.113.5 40000 53\r\n`
/// (haproxy's doc/proxy-protocol.txt section 2.1; read by src/dns/proxy-header.ts).
std::string proxy_protocol_line(const wire::FlowKey& key);

}  // namespace relay
