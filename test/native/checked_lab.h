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

}  // namespace lab
