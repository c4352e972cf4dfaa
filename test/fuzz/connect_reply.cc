// Fuzzes the proxy's reply to CONNECT: whole or cut anywhere, the verdict is the same.
#include "relay/connect_reply.h"

#include <memory>
#include <vector>

#include "fixed_random.h"
#include "input.h"

namespace {

using State = relay::ConnectReply::State;

struct Verdict {
  State state = State::kIncomplete;
  int status = 0;
  std::string head;
  size_t taken = 0;  // bytes up to the app's data
};

// Feeds `bytes` in pieces of the sizes that `cuts` says, over and over; whole when it is empty.
Verdict judge(std::span<const uint8_t> bytes, std::span<const uint8_t> cuts) {
  relay::ConnectReply reply;
  Verdict out;
  size_t at = 0;
  for (size_t i = 0; at < bytes.size() && out.state == State::kIncomplete; i++) {
    size_t wanted = cuts.empty() ? bytes.size() : cuts[i % cuts.size()] + 1u;
    size_t n = std::min(bytes.size() - at, wanted);
    std::vector<uint8_t> piece(bytes.begin() + static_cast<std::ptrdiff_t>(at),
                               bytes.begin() + static_cast<std::ptrdiff_t>(at + n));
    size_t rest = 0;
    out.state = reply.feed(piece, rest);
    if (out.state == State::kComplete) {
      fuzz::insist(rest <= n, "the app's data begins inside the piece");
      out.taken = at + rest;
    }
    at += n;
  }
  fuzz::insist(reply.head().size() <= relay::kMaxReplyHeadBytes + 1, "a head has a bound");
  if (out.state != State::kComplete) return out;
  out.status = reply.status();
  out.head = reply.head();
  fuzz::insist(out.status >= 200 && out.status <= 999, "a final status is 200 to 999");
  fuzz::insist(reply.is_success() == (out.status < 300), "2xx alone is success");
  fuzz::insist(out.head.starts_with("HTTP/1.") && out.head.ends_with('\n'), "a head is whole");
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input({data, size});
  auto cuts = input.take(input.u8() % 8u);
  auto bytes = input.rest();
  Verdict whole = judge(bytes, {});
  Verdict cut = judge(bytes, cuts);
  fuzz::insist(whole.state == cut.state, "a verdict does not depend on the cuts");
  fuzz::insist(whole.status == cut.status && whole.head == cut.head, "nor does the head");
  fuzz::insist(whole.taken == cut.taken, "nor does where the app's data begins");
  return 0;
}
