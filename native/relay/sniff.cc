// The host name in a client's first bytes: SNI of a TLS ClientHello, Host of an HTTP/1 request.
#include "relay/sniff.h"

#include <string_view>

#include "base/bytes.h"

namespace relay {
namespace {

// RFC 8446 section 5.1.
constexpr uint8_t kContentHandshake = 22;
constexpr size_t kMaxRecordBytes = (1 << 14) + 256;
// RFC 8446 section 4.
constexpr uint8_t kClientHello = 1;
constexpr size_t kHandshakeHeaderBytes = 4;
// RFC 6066 section 3.
constexpr uint16_t kExtensionServerName = 0;
constexpr uint8_t kNameTypeHost = 0;

constexpr size_t kMaxHostBytes = 253;
constexpr size_t kMaxLabelBytes = 63;

bool is_upper(char c) { return c >= 'A' && c <= 'Z'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
char lower(char c) { return is_upper(c) ? static_cast<char>(c + ('a' - 'A')) : c; }

bool is_label_char(char c) {
  c = lower(c);
  return (c >= 'a' && c <= 'z') || is_digit(c) || c == '-' || c == '_';
}

// RFC 9110 section 5.6.2.
bool is_token_char(char c) {
  return is_label_char(c) || std::string_view("!#$%&'*+.^`|~").find(c) != std::string_view::npos;
}

bool is_blank(char c) { return c == ' ' || c == '\t'; }

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && is_blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_blank(text.back())) text.remove_suffix(1);
  return text;
}

// Names whose last label is a number (decimal, or 0x and hexadecimal) are IPv4 addresses to whoever
// parses them.
bool is_number(std::string_view label) {
  bool is_hex = label.starts_with("0x");
  if (is_hex) label.remove_prefix(2);
  for (char c : label)
    if (!is_digit(c) && !(is_hex && c >= 'a' && c <= 'f')) return false;
  return true;
}

bool is_host_name(std::string_view name) {
  if (name.empty() || name.size() > kMaxHostBytes) return false;
  size_t label_start = 0;
  for (size_t i = 0; i <= name.size(); i++) {
    if (i < name.size() && is_label_char(name[i])) continue;
    if (i < name.size() && name[i] != '.') return false;
    if (i == label_start || i - label_start > kMaxLabelBytes) return false;
    if (i < name.size()) label_start = i + 1;
  }
  return !is_number(name.substr(label_start));
}

// Takes fields off a message; once one does not fit, all that follow are empty.
class Fields {
 public:
  explicit Fields(std::string_view bytes) : rest_(bytes) {}

  bool is_broken() const { return is_broken_; }
  bool is_empty() const { return rest_.empty(); }

  std::string_view take(size_t size) {
    if (size > rest_.size()) {
      is_broken_ = true;
      rest_ = {};
      return {};
    }
    std::string_view taken = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return taken;
  }

  uint8_t take_u8() {
    std::string_view taken = take(1);
    return taken.empty() ? 0 : static_cast<uint8_t>(taken[0]);
  }

  uint16_t take_u16() {
    std::string_view taken = take(2);
    return taken.empty() ? 0 : base::load_be16(reinterpret_cast<const uint8_t*>(taken.data()));
  }

  std::string_view take_vector8() { return take(take_u8()); }
  std::string_view take_vector16() { return take(take_u16()); }

 private:
  std::string_view rest_;
  bool is_broken_ = false;
};

// The host name of the server_name extension; empty when there is none.
std::string_view server_name(std::string_view extension) {
  Fields names(Fields(extension).take_vector16());
  while (!names.is_empty()) {
    uint8_t type = names.take_u8();
    std::string_view name = names.take_vector16();
    if (names.is_broken()) return {};
    if (type == kNameTypeHost) return name;
  }
  return {};
}

// RFC 8446 section 4.1.2; `hello` without the handshake header.
std::string_view hello_name(std::string_view hello) {
  Fields fields(hello);
  fields.take(2 + 32);     // legacy_version, random
  fields.take_vector8();   // legacy_session_id
  fields.take_vector16();  // cipher_suites
  fields.take_vector8();   // legacy_compression_methods
  Fields extensions(fields.take_vector16());
  if (fields.is_broken()) return {};
  while (!extensions.is_empty()) {
    uint16_t type = extensions.take_u16();
    std::string_view body = extensions.take_vector16();
    if (extensions.is_broken()) return {};
    if (type == kExtensionServerName) return server_name(body);
  }
  return {};
}

}  // namespace

Sniffer::State Sniffer::feed(std::span<const uint8_t> bytes) {
  for (uint8_t byte : bytes) {
    if (protocol_ == Protocol::kUnknown) {
      if (byte != kContentHandshake && !is_upper(static_cast<char>(byte))) return State::kNone;
      protocol_ = byte == kContentHandshake ? Protocol::kTls : Protocol::kHttp;
    }
    State state = protocol_ == Protocol::kTls ? feed_tls(byte) : feed_http(byte);
    if (state != State::kMore) return state;
    if (++total_bytes_ >= kMaxSniffBytes) return State::kNone;
  }
  return State::kMore;
}

Sniffer::State Sniffer::feed_tls(uint8_t byte) {
  if (record_left_ == 0) {
    record_header_[record_header_bytes_++] = byte;
    if (record_header_bytes_ == 1 && byte != kContentHandshake) return State::kNone;
    if (record_header_bytes_ == 2 && byte != 3) return State::kNone;  // SSL 3.0 to TLS 1.3
    if (record_header_bytes_ < sizeof record_header_) return State::kMore;
    record_left_ = base::load_be16(record_header_ + 3);
    record_header_bytes_ = 0;
    // An empty handshake record is forbidden, and would let a client send nothing for ever.
    return record_left_ == 0 || record_left_ > kMaxRecordBytes ? State::kNone : State::kMore;
  }
  record_left_--;
  hello_.push_back(static_cast<char>(byte));
  if (hello_.size() == 1 && byte != kClientHello) return State::kNone;
  if (hello_.size() < kHandshakeHeaderBytes) return State::kMore;
  size_t length = base::load_be32(reinterpret_cast<const uint8_t*>(hello_.data())) & 0xffffff;
  if (length > kMaxSniffBytes) return State::kNone;
  return hello_.size() == kHandshakeHeaderBytes + length ? judge_hello() : State::kMore;
}

Sniffer::State Sniffer::judge_hello() {
  return found(hello_name(std::string_view(hello_).substr(kHandshakeHeaderBytes)));
}

Sniffer::State Sniffer::feed_http(uint8_t byte) {
  char c = static_cast<char>(byte);
  if (c == '\n') {
    if (line_.ends_with('\r')) line_.pop_back();
    State state = judge_line();
    line_.clear();
    return state;
  }
  // The method: whatever else begins with a capital letter is known at once.
  if (is_request_line_ && c != ' ' && !is_token_char(c) && line_.find(' ') == std::string::npos)
    return State::kNone;
  line_.push_back(c);
  return State::kMore;
}

// RFC 9112 sections 3 and 5.
Sniffer::State Sniffer::judge_line() {
  std::string_view line = line_;
  if (is_request_line_) {
    is_request_line_ = false;
    size_t version = line.rfind(' ');
    bool is_http1 =
        version != std::string_view::npos && line.substr(version + 1).starts_with("HTTP/1.");
    return is_http1 ? State::kMore : State::kNone;
  }
  if (line.empty()) return State::kNone;  // the end of the head
  size_t colon = line.find(':');
  if (colon != 4) return State::kMore;
  constexpr std::string_view kHost = "host";
  for (size_t i = 0; i < kHost.size(); i++)
    if (lower(line[i]) != kHost[i]) return State::kMore;
  std::string_view value = trimmed(line.substr(colon + 1));
  return found(value.substr(0, value.find(':')));
}

Sniffer::State Sniffer::found(std::string_view host) {
  if (host.ends_with('.')) host.remove_suffix(1);
  std::string name;
  for (char c : host) name.push_back(lower(c));
  if (!is_host_name(name)) return State::kNone;
  name_ = std::move(name);
  return State::kFound;
}

}  // namespace relay
