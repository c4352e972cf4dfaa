// Events for TypeScript, as bytes: one buffer per burst, decoded by src/tunstack/flow.ts.
//
// A record, little endian:
//   u16 length of the whole record   u8 kind   u8 family (4, 6, 0)
//   u16 port of the app   u16 port of the destination
//   u8[16] address of the app   u8[16] address of the destination (IPv4 in the first 4)
//   u16 HTTP status   u16 errno   u32 duration, ms
//   u64 bytes to the upstream   u64 bytes to the app
//   u32 records of this kind left out before this one   u16 bytes of the hostname
//   then the hostname that the flow asked for in place of its address, then text to the end
#pragma once
#include <array>
#include <functional>
#include <mutex>
#include <string_view>
#include <vector>

#include "relay/relay.h"

namespace engine {

constexpr size_t kRecordBytes = 70;

/// Appends a record.
void encode_event(std::vector<uint8_t>& out, relay::EventKind kind, const relay::Flow* flow,
                  uint64_t now_ms, int status, int error, uint32_t left_out, std::string_view text);

/// Collects records on the engine's thread and hands them over in batches on another.
class EventQueue {
 public:
  /// `wake` is called, on the engine's thread, when the first record of a batch is there.
  explicit EventQueue(std::function<void()> wake) : wake_(std::move(wake)) {}

  /// At most kMaxPerSecond records of a kind are kept per second; the next one tells how many not,
  /// `similar` ones that did not come here included.
  void push(relay::EventKind kind, const relay::Flow* flow, uint64_t now_ms, int status, int error,
            std::string_view text, uint32_t similar = 0);
  /// Everything since the last call. Any thread.
  std::vector<uint8_t> take();

 private:
  static constexpr uint32_t kMaxPerSecond = 100;
  struct Limit {
    uint64_t second = 0;
    uint32_t count = 0;
    uint32_t left_out = 0;
  };
  std::function<void()> wake_;
  std::array<Limit, 8> limits_;
  std::mutex mutex_;
  std::vector<uint8_t> records_;
  bool is_awake_ = false;
};

}  // namespace engine
