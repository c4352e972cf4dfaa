// The lab inside the test harness: whatever a test did, nothing may be left of it.
#pragma once
#include "harness.h"
#include "lab.h"

namespace lab {

class CheckedLab : public Lab {
 public:
  explicit CheckedLab(LabOptions options = {}) : Lab(std::move(options)) {}
  ~CheckedLab() { CHECK_EQ(leftovers(), std::string()); }
};

/// `up` bytes to the proxy and `down` bytes to the app at once, byte-exact; then both ends close.
inline void exchange(CheckedLab& lab, Lab::Pair pair, size_t up, size_t down,
                     uint64_t limit_ms = 60'000) {
  pair.app->send(pattern(1, up));
  pair.proxy->send(pattern(2, down));
  pair.app->close();
  pair.proxy->finish();
  CHECK(lab.until([&] { return pair.app->is_closed() && pair.proxy->has_eof; }, limit_ms));
  CHECK_EQ(pair.proxy->received.size(), up);
  CHECK_EQ(pair.app->received.size(), down);
  CHECK_EQ(first_difference(pair.proxy->received, 1), -1);
  CHECK_EQ(first_difference(pair.app->received, 2), -1);
}

}  // namespace lab
