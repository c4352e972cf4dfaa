// The host name in a client's first bytes: SNI of a TLS ClientHello, Host of an HTTP/1 request.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace relay {

/// A client that has sent so much without a name is taken as it is. Larger than any ClientHello or
/// request head in use: post-quantum key shares and session tickets make a few KiB.
constexpr size_t kMaxSniffBytes = 16 * 1024;

/// Reads a stream as it comes, cut anywhere; each byte is looked at once. Copies at most
/// kMaxSniffBytes.
///
/// The name comes from the client: it is checked to be a host name (labels of letters, digits, '-',
/// '_', at most 253 bytes, no IP address) before anybody sees it, for it goes into a CONNECT
/// request. With Encrypted ClientHello it is the public name of the server's operator
/// (draft-ietf-tls-esni), which cannot be told from the true one.
class Sniffer {
 public:
  enum class State {
    kMore,   // go on feeding
    kFound,  // name() is the host
    kNone,   // these bytes name no host, whatever follows
  };

  /// Takes the next bytes. Not to be called after anything but kMore.
  State feed(std::span<const uint8_t> bytes);

  /// Lower case, without final dot and port; empty before kFound.
  const std::string& name() const { return name_; }

 private:
  enum class Protocol { kUnknown, kTls, kHttp };

  State feed_tls(uint8_t byte);
  State feed_http(uint8_t byte);
  State judge_hello();
  State judge_line();
  State found(std::string_view host);

  Protocol protocol_ = Protocol::kUnknown;
  size_t total_bytes_ = 0;
  std::string name_;

  // TLS: the header of the record at hand, and the handshake message put together from records.
  uint8_t record_header_[5] = {};
  size_t record_header_bytes_ = 0;
  size_t record_left_ = 0;
  std::string hello_;

  // HTTP: the line at hand.
  std::string line_;
  bool is_request_line_ = true;
};

}  // namespace relay
