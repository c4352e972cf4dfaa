// Fuzzes the reader of host names in a client's first bytes: whole or cut anywhere, it finds the
// same, and what it finds is a host name.
#include "relay/sniff.h"

#include <vector>

#include "fixed_random.h"
#include "input.h"

namespace {

using State = relay::Sniffer::State;

struct Finding {
  State state = State::kMore;
  std::string name;
};

Finding sniff(std::span<const uint8_t> bytes, std::span<const uint8_t> cuts) {
  relay::Sniffer sniffer;
  Finding out;
  size_t at = 0;
  for (size_t i = 0; at < bytes.size() && out.state == State::kMore; i++) {
    size_t wanted = cuts.empty() ? bytes.size() : cuts[i % cuts.size()] + 1u;
    size_t n = std::min(bytes.size() - at, wanted);
    std::vector<uint8_t> piece(bytes.begin() + static_cast<std::ptrdiff_t>(at),
                               bytes.begin() + static_cast<std::ptrdiff_t>(at + n));
    out.state = sniffer.feed(piece);
    at += n;
  }
  out.name = sniffer.name();
  fuzz::insist((out.state == State::kFound) == !out.name.empty(), "a name is there when found");
  fuzz::insist(out.name.size() <= 253, "a host name has at most 253 bytes");
  for (char c : out.name) {
    bool is_plain =
        (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';
    fuzz::insist(is_plain, "a host name is letters, digits, '-', '_' and dots");
  }
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input({data, size});
  auto cuts = input.take(input.u8() % 8u);
  auto bytes = input.rest();
  Finding whole = sniff(bytes, {});
  Finding cut = sniff(bytes, cuts);
  fuzz::insist(whole.state == cut.state && whole.name == cut.name,
               "a finding does not depend on the cuts");
  return 0;
}
