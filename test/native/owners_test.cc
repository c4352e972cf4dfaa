// The table of who has which flow, beside one that cannot be wrong.
#include "engine/owners.h"

#include <atomic>
#include <random>
#include <thread>
#include <unordered_map>
#include <vector>

#include "harness.h"

using engine::Owners;

namespace {

// Everything that is done to both.
struct Twins {
  Owners owners;
  std::unordered_map<uint64_t, uint32_t> model;

  void set(uint64_t hash, uint32_t queue) {
    owners.set(hash, queue);
    model[hash] = queue;
  }
  void erase(uint64_t hash, uint32_t queue) {
    owners.erase(hash, queue);
    auto found = model.find(hash);
    if (found != model.end() && found->second == queue) model.erase(found);
  }
  bool agree_on(uint64_t hash) {
    auto found = model.find(hash);
    return owners.find(hash) ==
           (found == model.end() ? std::nullopt : std::optional(found->second));
  }
};

// Hashes of the same shard and the same place in it, whatever the table's size, are those that
// differ in bits no position is taken from; all of them crowd around one place.
uint64_t crowded(uint64_t n) { return n << 40 | 0x2a0; }

}  // namespace

TEST("what was entered is found, with the last who entered it, and nothing else") {
  Owners owners;
  CHECK(!owners.find(0x1234'5678'9abc'def0));
  owners.set(0x1234'5678'9abc'def0, 3);
  CHECK_EQ(owners.find(0x1234'5678'9abc'def0).value_or(99), 3u);
  CHECK(!owners.find(0x1234'5678'9abc'de00));
  owners.set(0x1234'5678'9abc'def0, 15);
  CHECK_EQ(owners.find(0x1234'5678'9abc'def0).value_or(99), 15u);
}

TEST("only who has it takes it out") {
  Owners owners;
  owners.set(0x77770, 1);
  owners.erase(0x77770, 2);
  CHECK_EQ(owners.find(0x77770).value_or(99), 1u);
  owners.erase(0x77770, 1);
  CHECK(!owners.find(0x77770));
  owners.erase(0x77770, 1);
}

TEST("a hash of nothing but zeros is a hash like any other") {
  Owners owners;
  CHECK(!owners.find(0));
  owners.set(0, 0);
  CHECK_EQ(owners.find(0).value_or(99), 0u);
  owners.erase(0, 0);
  CHECK(!owners.find(0));
}

TEST("growing to a hundred thousand and shrinking to nothing, all are found and none is left") {
  Twins twins;
  std::mt19937_64 random(1);
  std::vector<uint64_t> all;
  for (int i = 0; i < 100'000; i++) {
    all.push_back(random() & ~uint64_t{15});
    twins.set(all.back(), static_cast<uint32_t>(i % 16));
  }
  size_t wrong = 0;
  for (uint64_t hash : all) wrong += !twins.agree_on(hash);
  for (uint64_t hash : all) {
    twins.erase(hash, twins.model[hash]);
    wrong += !twins.agree_on(hash);
  }
  CHECK_EQ(wrong, 0u);
  CHECK(twins.model.empty());
}

TEST("a crowd around one place, entered and taken out in any order, stays whole") {
  for (uint64_t seed = 0; seed < 20; seed++) {
    Twins twins;
    std::mt19937_64 random(seed);
    size_t wrong = 0;
    for (int i = 0; i < 5000; i++) {
      // Mostly of one place, the others its neighbours, which the crowd pushes away.
      uint64_t n = random() % 40;
      uint64_t hash = crowded(n) + (random() % 3) * 1024;
      auto queue = static_cast<uint32_t>(random() % 2);
      if (random() % 2) {
        twins.set(hash, queue);
      } else {
        twins.erase(hash, queue);
      }
      for (uint64_t k = 0; k < 40; k += 13)
        for (uint64_t place = 0; place < 3; place++)
          wrong += !twins.agree_on(crowded((n + k) % 40) + place * 1024);
    }
    CHECK_EQ(wrong, 0u);
  }
}

TEST("engines enter, look and take out at the same time") {
  Owners owners;
  std::vector<std::thread> engines;
  std::atomic<int> wrong{0};
  for (uint32_t queue = 0; queue < 4; queue++) {
    engines.emplace_back([&, queue] {
      std::mt19937_64 random(queue);
      for (int i = 0; i < 20'000; i++) {
        // No two engines have the same: the two bits above the queue's are its number.
        uint64_t hash = (random() & ~uint64_t{63}) | queue << 4;
        owners.set(hash, queue);
        if (owners.find(hash) != queue) wrong++;
        owners.erase(hash, queue);
        if (owners.find(hash)) wrong++;
      }
    });
  }
  for (auto& engine : engines) engine.join();
  CHECK_EQ(wrong.load(), 0);
}
