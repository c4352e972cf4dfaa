// The proxy's answer to CONNECT, read as it comes.
#pragma once
#include <cstdint>
#include <span>
#include <string>

namespace relay {

constexpr size_t kMaxReplyHeadBytes = 64 * 1024;

/// Judges a reply head (RFC 9110 section 9.3.6, RFC 9112). Any 2xx is success; 1xx heads are passed
/// over; header fields, Content-Length among them, mean nothing here. HTTP/1.0 and bare LF are
/// taken.
class ConnectReply {
 public:
  enum class State { kIncomplete, kComplete, kMalformed, kTooLong };

  /// Takes the next bytes. Not to be called after anything but kIncomplete.
  /// After kComplete, `rest` tells where in `bytes` the app's data begins (its size if none).
  State feed(std::span<const uint8_t> bytes, size_t& rest);

  /// 200 to 999 once complete.
  int status() const { return status_; }
  bool is_success() const { return status_ >= 200 && status_ < 300; }
  /// The final head, with its empty line; also what came so far of a malformed one.
  const std::string& head() const { return head_; }

 private:
  State judge();

  std::string head_;
  bool line_is_empty_ = false;  // nothing but CR since the last LF
  size_t total_bytes_ = 0;
  int status_ = 0;
};

}  // namespace relay
