// Randomness from the kernel.
#include <sys/random.h>

#include <cerrno>
#include <cstdlib>

#include "base/siphash.h"

namespace base {

void random_bytes(void* out, size_t length) {
  auto* p = static_cast<uint8_t*>(out);
  while (length > 0) {
    ssize_t n = getrandom(p, length, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) abort();  // never continue with predictable sequence numbers
    p += n;
    length -= static_cast<size_t>(n);
  }
}

}  // namespace base
