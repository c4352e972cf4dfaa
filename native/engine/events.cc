// Events for TypeScript, as bytes.
#include "engine/events.h"

#include <arpa/inet.h>

#include <algorithm>
#include <cstring>

namespace engine {
namespace {

template <class T>
void put(std::vector<uint8_t>& out, T value) {
  for (size_t i = 0; i < sizeof value; i++) out.push_back(static_cast<uint8_t>(value >> (8 * i)));
}

void put_address(std::vector<uint8_t>& out, const uint32_t* words) {
  auto* p = reinterpret_cast<const uint8_t*>(words);
  out.insert(out.end(), p, p + 16);
}

}  // namespace

void encode_event(std::vector<uint8_t>& out, relay::EventKind kind, const relay::Flow* flow,
                  uint64_t now_ms, int status, int error, uint32_t left_out,
                  std::string_view text) {
  static const wire::FlowKey kNone;
  text = text.substr(0, 4096);
  const wire::FlowKey& key = flow ? flow->key : kNone;
  std::string_view hostname = flow ? flow->hostname() : std::string_view();
  put<uint16_t>(out, static_cast<uint16_t>(kRecordBytes + hostname.size() + text.size()));
  put<uint8_t>(out, static_cast<uint8_t>(kind));
  put<uint8_t>(out, static_cast<uint8_t>(key.family));
  put<uint16_t>(out, ntohs(key.app_port));
  put<uint16_t>(out, ntohs(key.destination_port));
  put_address(out, key.app);
  put_address(out, key.destination);
  put<uint16_t>(out, static_cast<uint16_t>(status));
  put<uint16_t>(out, static_cast<uint16_t>(error));
  put<uint32_t>(out, flow ? static_cast<uint32_t>(now_ms - flow->started_ms) : 0);
  put<uint64_t>(out, flow ? flow->to_upstream_bytes : 0);
  put<uint64_t>(out, flow ? flow->written_bytes : 0);
  put<uint32_t>(out, left_out);
  put<uint16_t>(out, static_cast<uint16_t>(hostname.size()));
  out.insert(out.end(), hostname.begin(), hostname.end());
  out.insert(out.end(), text.begin(), text.end());
}

void EventQueue::push(relay::EventKind kind, const relay::Flow* flow, uint64_t now_ms, int status,
                      int error, std::string_view text, uint32_t similar) {
  Limit& limit = limits_[static_cast<size_t>(kind) % limits_.size()];
  limit.left_out += similar;
  if (limit.second != now_ms / 1000) {
    limit.second = now_ms / 1000;
    limit.count = 0;
  }
  if (++limit.count > kMaxPerSecond) {
    limit.left_out++;
    return;
  }
  bool must_wake;
  {
    std::lock_guard lock(mutex_);
    encode_event(records_, kind, flow, now_ms, status, error, limit.left_out, text);
    must_wake = !is_awake_;
    is_awake_ = true;
  }
  limit.left_out = 0;
  if (must_wake) wake_();
}

std::vector<uint8_t> EventQueue::take() {
  std::lock_guard lock(mutex_);
  is_awake_ = false;
  return std::exchange(records_, {});
}

}  // namespace engine
