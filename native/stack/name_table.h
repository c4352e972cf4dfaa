// What virtual addresses stand for, and how many flows use each: shared by the engines of all
// queues and by the thread that answers DNS.
//
// A flow counts itself first and looks its name up then; src/dns/name-map.ts takes an address away
// only where no flow is counted, and tells the table before anybody is told the new name. So a flow
// has either the name that its program was told, or none. Every engine lives in its own copy of
// this code (see engine/engine_copies.h), so nothing here is static: the table is one object that
// all copies use through their own inlined code.
#pragma once
#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>

#include "wire/virtual_range.h"

namespace stack {

class NameTable {
 public:
  /// @param flow_words one per slot of `range`; borrowed for the table's life
  NameTable(wire::VirtualRange range, uint32_t* flow_words)
      : range_(std::move(range)), flow_words_(flow_words) {}
  NameTable(const NameTable&) = delete;
  NameTable& operator=(const NameTable&) = delete;

  const wire::VirtualRange& range() const { return range_; }

  /// What a slot stands for from now on, for every thread when this returns; empty: nothing. A name
  /// that could not stand in a request is nothing, and so is a slot outside the range.
  void set(uint32_t slot, std::string hostname) {
    if (slot >= range_.slots()) return;
    Shard& shard = shards_[slot % kShards];
    std::lock_guard lock(shard.mutex);
    if (is_host_text(hostname)) {
      shard.names[slot] = std::move(hostname);
    } else {
      shard.names.erase(slot);
    }
  }

  /// A flow to the slot begins. @return its name; empty: it has none and is not counted
  std::string begin_flow(uint32_t slot) {
    std::atomic_ref<uint32_t> word(flow_words_[slot]);
    // In this order: between the two the count alone tells of the flow.
    word.fetch_add(1);
    word.fetch_or(kUsed);
    std::string name = find(slot);
    if (name.empty()) end_flow(slot);
    return name;
  }

  void end_flow(uint32_t slot) { std::atomic_ref<uint32_t>(flow_words_[slot]).fetch_sub(1); }

 private:
  // FLOW_USED of src/dns/name-map.ts.
  static constexpr uint32_t kUsed = 0x80000000;
  static constexpr size_t kShards = 64;
  static constexpr size_t kMaxHostBytes = 255;
  struct alignas(64) Shard {
    std::mutex mutex;
    std::unordered_map<uint32_t, std::string> names;
  };

  std::string find(uint32_t slot) {
    Shard& shard = shards_[slot % kShards];
    std::lock_guard lock(shard.mutex);
    auto found = shard.names.find(slot);
    return found == shard.names.end() ? std::string() : found->second;
  }

  // Letters, digits, '-', '_' and '.': it becomes part of a CONNECT request.
  static bool is_host_text(std::string_view text) {
    if (text.empty() || text.size() > kMaxHostBytes) return false;
    for (char c : text) {
      bool is_letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
      if (!is_letter && !(c >= '0' && c <= '9') && c != '-' && c != '_' && c != '.') return false;
    }
    return true;
  }

  wire::VirtualRange range_;
  uint32_t* flow_words_;
  std::array<Shard, kShards> shards_;
};

}  // namespace stack
