// The upstream proxy's side: one end of each connection that the relay dials, worked by the test.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "app_packet.h"
#include "base/unique_fd.h"
#include "relay/dialer.h"

namespace lab {

/// The proxy's end of one connection.
class ProxyEnd {
 public:
  explicit ProxyEnd(base::UniqueFd fd) : fd_(std::move(fd)) {}

  void send(std::span<const uint8_t> data);
  void send(std::string_view text);
  /// TCP's urgent data: one byte, out of band. Only a TCP connection has it.
  void send_urgent(uint8_t byte);
  void reply_ok() { send("HTTP/1.1 200 Connection established\r\n\r\n"); }
  /// FIN once all is sent; the other direction goes on.
  void finish();
  void close() { fd_.reset(); }
  /// RST. Only a TCP connection has one; on a socket pair the other end sees ECONNRESET.
  void reset();
  void set_reading(bool reads) { reads_ = reads; }
  /// The connection was not made until now (Dial::kLater).
  void establish();

  bool is_open() const { return static_cast<bool>(fd_); }
  const std::string& request() const { return request_; }  // with its empty line
  bool is_dns = false;  // not the proxy's end: of the DNS socket, its request a PROXY line
  std::string authority() const;
  Bytes received;  // behind the request
  std::string received_text() const { return {received.begin(), received.end()}; }
  bool has_eof = false;
  int error = 0;  // ECONNRESET and the like
  size_t pending_bytes() const { return out_.size() - out_at_; }
  uint64_t sent_bytes = 0;
  size_t dialled_address = 0;  // port of the UpstreamAddress
  int relay_fd = -1;           // the other end, the relay's own: to be looked at only

  /// Reads and writes what can be. @return true when anything moved
  bool pump();

 private:
  bool pump_out();
  bool pump_in();

  base::UniqueFd fd_;
  Bytes out_;
  size_t out_at_ = 0;
  bool fin_wanted_ = false;
  bool fin_sent_ = false;
  bool reads_ = true;
  bool has_request_ = false;
  size_t filler_bytes_ = 0;
  std::string request_;
  friend class ProxySide;
};

enum class Dial {
  kPair,   // a socket pair: connected at once, every byte arrives at once
  kLater,  // a socket pair that is connecting until establish()
  kTcp,    // loopback TCP, for what only TCP has (RST)
  kError,  // dial() fails with next_error
  kGone,   // a socket pair whose other end is closed: connected, and not even the request can be
           // sent
};

class ProxySide {
 public:
  ProxySide();
  int dial(const relay::UpstreamAddress& upstream, bool& in_progress);
  bool pump();

  Dial how = Dial::kPair;
  int next_error = 0;
  std::vector<uint16_t> failing_ports;  // addresses that fail with next_error
  int dns_error = 0;                    // the DNS socket fails with it
  int engine_send_buffer = 0;           // SO_SNDBUF of the relay's end, of pairs
  size_t dials = 0;
  size_t recycled = 0;  // sockets that the relay gave back, which are closed here
  std::vector<std::unique_ptr<ProxyEnd>> ends;

 private:
  int dial_pair(bool is_later);
  int dial_tcp(bool& in_progress);
  base::UniqueFd listener_;
  uint16_t port_ = 0;
};

/// The relay owns its dialer, the test the proxy.
class ForwardingDialer final : public relay::Dialer {
 public:
  explicit ForwardingDialer(ProxySide& proxy) : proxy_(proxy) {}
  int dial(const relay::UpstreamAddress& upstream, bool& in_progress) override {
    return proxy_.dial(upstream, in_progress);
  }
  void recycle(base::UniqueFd) override { proxy_.recycled++; }

 private:
  ProxySide& proxy_;
};

/// 127.0.0.1 with that port; the port only tells addresses apart.
relay::UpstreamAddress upstream_address(uint16_t port);

}  // namespace lab
