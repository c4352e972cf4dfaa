// The proxy's answer to CONNECT, read as it comes.
#include "relay/connect_reply.h"

#include <algorithm>
#include <cstring>

namespace relay {
namespace {

constexpr char kPrefix[] = "HTTP/1.";
constexpr size_t kPrefixBytes = sizeof kPrefix - 1;
constexpr size_t kStatusLineBytes = 12;  // "HTTP/1.1 200"

bool is_digit(char c) { return c >= '0' && c <= '9'; }

}  // namespace

ConnectReply::State ConnectReply::feed(std::span<const uint8_t> bytes, size_t& rest) {
  for (size_t i = 0; i < bytes.size(); i++) {
    char c = static_cast<char>(bytes[i]);
    head_.push_back(c);
    // Not HTTP at all: say so at once instead of waiting for 64 KiB of it.
    if (head_.size() <= kPrefixBytes && c != kPrefix[head_.size() - 1]) return State::kMalformed;
    if (++total_bytes_ > kMaxReplyHeadBytes) return State::kTooLong;
    if (c == '\n') {
      if (line_is_empty_) {
        State state = judge();
        if (state != State::kIncomplete) {
          rest = i + 1;
          return state;
        }
      } else {
        line_is_empty_ = true;
      }
    } else if (c != '\r') {
      line_is_empty_ = false;
    }
  }
  rest = bytes.size();
  return State::kIncomplete;
}

ConnectReply::State ConnectReply::judge() {
  if (head_.size() < kStatusLineBytes || !is_digit(head_[7]) || head_[8] != ' ')
    return State::kMalformed;
  for (size_t i = 9; i < 12; i++)
    if (!is_digit(head_[i])) return State::kMalformed;
  char after = head_[12];
  if (after != ' ' && after != '\r' && after != '\n') return State::kMalformed;
  status_ = (head_[9] - '0') * 100 + (head_[10] - '0') * 10 + (head_[11] - '0');
  if (status_ < 100) return State::kMalformed;
  if (status_ >= 200) return State::kComplete;
  head_.clear();  // an interim reply: the final one follows
  line_is_empty_ = false;
  status_ = 0;
  return State::kIncomplete;
}

}  // namespace relay
