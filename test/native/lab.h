// A whole tunnel on a bench: applications (app_tcp.h), a device in memory, the engine, the proxy's
// side (proxy_side.h), and a clock that moves only when the test says so.
#pragma once
#include <memory>
#include <string>

#include "app_tcp.h"
#include "engine/engine.h"
#include "proxy_side.h"

namespace lab {

struct LabOptions {
  engine::Options engine = default_engine_options();
  Dial dial = Dial::kPair;
  uint64_t start_ms = 1'000'000;
  bool takes_datagrams = true;
  std::shared_ptr<engine::QueueGroup> group = nullptr;  // whose first queue the engine has
  static engine::Options default_engine_options();
};

/// A record of engine/events.h.
struct EventRecord {
  relay::EventKind kind{};
  uint8_t family = 0;
  uint16_t app_port = 0;
  uint16_t destination_port = 0;
  std::array<uint8_t, 16> app{};
  std::array<uint8_t, 16> destination{};
  uint16_t status = 0;
  uint16_t error = 0;
  uint32_t duration_ms = 0;
  uint64_t to_upstream_bytes = 0;
  uint64_t to_app_bytes = 0;
  uint32_t left_out = 0;
  std::string hostname;
  std::string text;
};
/// @return nothing when the bytes are no whole records
std::optional<std::vector<EventRecord>> decode_events(std::span<const uint8_t> batch);

class Lab {
 public:
  explicit Lab(LabOptions options = {});
  ~Lab();

  Wire wire;
  AppHost apps{wire};
  ProxySide proxy;

  /// One exchange between all parties, the clock standing still. @return true when anything moved
  bool round();
  /// Rounds until nothing moves.
  void settle();
  /// Moves the clock in steps of at most kStepMs, settling at each.
  void advance(uint64_t ms);
  /// Moves the clock in one step, as a suspend does.
  void skip(uint64_t ms);
  /// Advances until `holds()`, at most `limit_ms`. @return whether it came to hold
  template <class F>
  bool until(F holds, uint64_t limit_ms = 30'000) {
    settle();
    for (uint64_t spent = 0; !holds(); spent += kStepMs) {
      if (spent >= limit_ms) return false;
      advance(kStepMs);
    }
    return true;
  }

  /// A flow that relays: SYN, request, 200, handshake. null when that does not come about.
  struct Pair {
    AppTcp* app = nullptr;
    ProxyEnd* proxy = nullptr;
    explicit operator bool() const { return app && proxy; }
  };
  Pair open(const AppOptions& options = {});
  /// The proxy's end of a connection, once its request has come; null before.
  ProxyEnd* proxy_of(const AppTcp& app);

  engine::Engine& engine() { return *engine_; }
  const relay::RelayStats& stats() { return engine_->relay_for_tests().stats(); }
  stack::Stack& stack() { return engine_->relay_for_tests().stack(); }
  tcp::Driver& driver() { return stack().driver(); }
  uint64_t counter(engine::Counter which) { return engine_->counters().get(which); }
  std::vector<EventRecord> events();
  uint64_t now_ms() const { return now_ms_; }
  uint32_t wakes = 0;
  uint32_t datagram_wakes = 0;

  /// Ends every connection and says what is left or was wrong; empty when all is well.
  std::string leftovers();
  /// The same for what a kernel would have complained of.
  std::string complaints() const;
  /// Old segments overtaken by new ones make windows look shrunk.
  bool may_reorder = false;

  /// Destroys the engine; nothing else may be asked of it.
  void destroy_engine() { engine_.reset(); }

  static constexpr uint64_t kStepMs = 5;

 private:
  LabOptions options_;
  std::unique_ptr<engine::Engine> engine_;
  uint64_t now_ms_;
};

}  // namespace lab
