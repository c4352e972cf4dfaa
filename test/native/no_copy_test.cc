// Bulk data lies in one place from the read to the write: a copy would show in CPU time alone.
#include <algorithm>
#include <vector>

#include "checked_lab.h"

extern "C" {
#include "lwip/pbuf.h"
}

using lab::CheckedLab;

namespace {

using Span = std::span<const uint8_t>;

// What is smaller may be copied on purpose, either way.
constexpr size_t kLarge = 32768;

bool lies_in(const std::vector<Span>& memory, Span part) {
  return std::any_of(memory.begin(), memory.end(), [&](Span m) {
    return part.data() >= m.data() && part.data() + part.size() <= m.data() + m.size();
  });
}

relay::Flow& only_flow(CheckedLab& lab) {
  relay::Flow* flow = nullptr;
  lab.stack().for_each([&](stack::Connection& c) { flow = static_cast<relay::Flow*>(&c); });
  return *flow;
}

}  // namespace

TEST("what an upload waits to send lies in the memory that its packets were read into") {
  CheckedLab lab;
  auto pair = lab.open({.segment_bytes = 60'000});
  REQUIRE(pair);
  pair.proxy->set_reading(false);
  lab.wire.notes_memory = true;
  pair.app->send(lab::pattern(1, 4'000'000));
  lab.settle();
  size_t large = 0;
  for (const pbuf* p = only_flow(lab).received_head; p; p = p->next) {
    if (p->len < kLarge) continue;
    large++;
    CHECK(lies_in(lab.wire.read_into, {static_cast<const uint8_t*>(p->payload), p->len}));
  }
  CHECK(large > 0);
}

TEST("a download's packets are written from the memory that the upstream was read into") {
  CheckedLab lab;
  auto pair = lab.open();
  REQUIRE(pair);
  lab.wire.notes_memory = true;
  pair.proxy->send(lab::pattern(1, 150'000));
  lab.engine().step(0, lab.now_ms());  // nothing is acknowledged yet, so all of it is still there
  std::vector<Span> chunks;
  for (const relay::SendBuffer* b = only_flow(lab).send_head; b; b = b->next)
    chunks.push_back({b->data, sizeof b->data});
  size_t large = 0;
  for (Span part : lab.wire.written_from) {
    if (part.size() < kLarge) continue;
    large++;
    CHECK(lies_in(chunks, part));
  }
  CHECK(large > 0);
}
