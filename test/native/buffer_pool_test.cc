// Packet buffers: kept while they are needed, given back once they are not.
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "harness.h"
#include "tcp/lwip_memory.h"

namespace {

struct Buffer {
  Buffer* next;
  uint8_t data[65536];
};
using Pool = tcp::BufferPool<Buffer, true>;  // as in the release build, not ASan's malloc

std::vector<Buffer*> take(Pool& pool, size_t count) {
  std::vector<Buffer*> out;
  for (size_t i = 0; i < count; i++) {
    out.push_back(pool.take());
    out.back()->data[0] = 1;
  }
  return out;
}

void give(Pool& pool, const std::vector<Buffer*>& buffers) {
  for (Buffer* buffer : buffers) pool.give(buffer);
}

// mincore(2): ENOMEM where nothing is mapped.
size_t count_mapped(const std::vector<Buffer*>& buffers) {
  size_t mapped = 0;
  for (Buffer* buffer : buffers) {
    unsigned char pages[sizeof(Buffer) / 4096 + 1];
    if (mincore(buffer, sizeof *buffer, pages) == 0) {
      mapped++;
    } else {
      CHECK_EQ(errno, ENOMEM);
    }
  }
  return mapped;
}

}  // namespace

TEST("the buffer that was given back last is taken first") {
  Pool pool;
  auto buffers = take(pool, 3);
  give(pool, buffers);
  CHECK(pool.take() == buffers[2]);
  CHECK(pool.take() == buffers[1]);
  pool.give(buffers[1]);
  pool.give(buffers[2]);
}

TEST("what was in use since the last trim stays mapped, however much of it") {
  Pool pool;
  for (int second = 0; second < 3; second++) {
    auto buffers = take(pool, 300);
    give(pool, buffers);
    pool.trim();
    CHECK_EQ(count_mapped(buffers), 300u);
  }
}

TEST("what was idle from one trim to the next is given back, but for a few") {
  Pool pool;
  auto buffers = take(pool, 300);
  give(pool, buffers);
  pool.trim();
  auto needed = take(pool, 100);
  give(pool, needed);
  pool.trim();
  size_t left = count_mapped(buffers);
  CHECK(left >= 100);
  CHECK(left < 200);
  CHECK(pool.has_surplus());
  pool.trim();
  CHECK(count_mapped(buffers) < 100);
  CHECK(!pool.has_surplus());
}

TEST("a peak is given back in parts, so that no packet waits long for it") {
  Pool pool;
  auto buffers = take(pool, 2000);
  give(pool, buffers);
  pool.trim();
  size_t trims = 0;
  for (size_t before = 2000; pool.has_surplus(); trims++) {
    pool.trim();
    size_t now = count_mapped(buffers);
    CHECK(now < before);
    CHECK(before - now <= 512);
    before = now;
  }
  CHECK(trims > 1);
}
