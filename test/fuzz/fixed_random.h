// Randomness that is the same in every run, so that an input that crashes once crashes again. A
// target includes this in place of native/base/random.cc.
#pragma once
#include <cstddef>
#include <cstdint>

#include "base/siphash.h"

namespace base {

inline uint64_t fixed_random_state = 1;

void random_bytes(void* out, size_t length) {
  auto* p = static_cast<uint8_t*>(out);
  for (size_t i = 0; i < length; i++) {
    fixed_random_state = fixed_random_state * 6364136223846793005ull + 1442695040888963407ull;
    p[i] = static_cast<uint8_t>(fixed_random_state >> 56);
  }
}

}  // namespace base
