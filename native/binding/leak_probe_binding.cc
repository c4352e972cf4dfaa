// Sends one packet of each kind that might leave past the tunnel, all at once, and tells what
// became of each: the call that failed, the ICMP error and who sent it, an answer, and, with
// CAP_NET_RAW, the devices by which a packet was seen to leave. Judging that is the business of
// src/app/leaktest. Node can neither bind to a device, nor set a mark, nor read an error queue.
#include "binding/leak_probe_binding.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "binding/arguments.h"
#include "binding/leak_probe.h"
#include "binding/leak_watch.h"
#include "engine/engine.h"

namespace {

using leak::is_connecting;
using leak::Kind;
using leak::Probe;
using leak::Watch;

constexpr size_t kMaxProbes = 256;
constexpr size_t kFirstIdentifier = 0x5056;

class Probing : public Napi::AsyncWorker {
 public:
  Probing(Napi::Env env, std::vector<Probe> probes, uint64_t timeout_ms)
      : Napi::AsyncWorker(env, "proxyvpn-leak-probes"),
        deferred_(Napi::Promise::Deferred::New(env)),
        probes_(std::move(probes)),
        timeout_ms_(timeout_ms) {}

  Napi::Promise promise() { return deferred_.Promise(); }

  void Execute() override {
    watch_.open();
    for (size_t i = 0; i < probes_.size(); i++)
      leak::start(probes_[i], static_cast<uint16_t>(kFirstIdentifier + i));
    uint64_t deadline = engine::monotonic_ms() + timeout_ms_;
    while (wait(deadline)) {
    }
    watch_.drain(probes_);
    watch_.close();
    for (Probe& probe : probes_) {
      probe.fd = base::UniqueFd();
      if (!probe.is_done) probe.fail("answer", ETIMEDOUT);
    }
  }

  void OnOK() override {
    Napi::Env env = Env();
    Napi::HandleScope scope(env);
    Napi::Array results = Napi::Array::New(env, probes_.size());
    for (size_t i = 0; i < probes_.size(); i++)
      results.Set(static_cast<uint32_t>(i), result(env, probes_[i]));
    Napi::Object out = Napi::Object::New(env);
    out["results"] = results;
    out["watchCode"] = Napi::String::New(env, name_of(watch_.error()));
    deferred_.Resolve(out);
  }

  void OnError(const Napi::Error& error) override { deferred_.Reject(error.Value()); }

 private:
  static const char* name_of(int error) {
    const char* name = error ? strerrorname_np(error) : "";
    return name ? name : "EUNKNOWN";
  }

  /// One round. @return whether to go on
  bool wait(uint64_t deadline) {
    std::vector<pollfd> polled;
    std::vector<Probe*> owners;
    for (Probe& probe : probes_) {
      if (probe.is_done) continue;
      short events = is_connecting(probe) ? POLLOUT : POLLIN;
      polled.push_back({probe.fd.get(), events, 0});
      owners.push_back(&probe);
    }
    uint64_t now = engine::monotonic_ms();
    if (polled.empty() || now >= deadline) return false;
    if (watch_.fd() >= 0) polled.push_back({watch_.fd(), POLLIN, 0});
    int ready = poll(polled.data(), polled.size(), static_cast<int>(deadline - now));
    if (ready < 0) return errno == EINTR;
    watch_.drain(probes_);
    for (size_t i = 0; i < owners.size(); i++)
      if (polled[i].revents) leak::progress(*owners[i], polled[i].revents);
    return true;
  }

  static Napi::Object result(Napi::Env env, const Probe& probe) {
    Napi::Object out = Napi::Object::New(env);
    out["step"] = Napi::String::New(env, probe.step);
    out["code"] = Napi::String::New(env, name_of(probe.error));
    out["isConnected"] = Napi::Boolean::New(env, probe.is_connected);
    out["localAddress"] = Napi::String::New(env, probe.local.text());
    out["icmpType"] = Napi::Number::New(env, probe.icmp_type);
    out["icmpCode"] = Napi::Number::New(env, probe.icmp_code);
    out["icmpFrom"] = Napi::String::New(env, probe.icmp_from.text());
    out["answer"] = Napi::Buffer<char>::Copy(env, probe.answer.data(), probe.answer.size());
    Napi::Array seen = Napi::Array::New(env, probe.seen_on.size());
    for (size_t i = 0; i < probe.seen_on.size(); i++)
      seen.Set(static_cast<uint32_t>(i), Napi::Number::New(env, probe.seen_on[i]));
    out["seenOn"] = seen;
    return out;
  }

  Napi::Promise::Deferred deferred_;
  std::vector<Probe> probes_;
  uint64_t timeout_ms_;
  Watch watch_;
};

Probe probe_of(const Napi::Object& object) {
  Probe probe;
  std::string kind = binding::text(object, "kind");
  probe.kind = kind == "udp"    ? Kind::kUdp
               : kind == "echo" ? Kind::kEcho
               : kind == "raw"  ? Kind::kRaw
                                : Kind::kTcp;
  // A raw socket takes the port of its address for a protocol number.
  bool has_port = probe.kind == Kind::kTcp || probe.kind == Kind::kUdp;
  auto port = static_cast<uint16_t>(has_port ? binding::number(object, "port") : 0);
  probe.destination = leak::endpoint_of(binding::text(object, "address"), port);
  probe.source = leak::endpoint_of(binding::text(object, "source"), 0);
  probe.device = binding::text(object, "device");
  probe.mark = static_cast<uint32_t>(binding::number(object, "mark"));
  probe.multicast_index = static_cast<uint32_t>(binding::number(object, "multicastIndex"));
  probe.wants_answer = binding::boolean(object, "wantsAnswer");
  Napi::Value payload = object.Get("payload");
  if (payload.IsTypedArray() &&
      payload.As<Napi::TypedArray>().TypedArrayType() == napi_uint8_array) {
    auto bytes = payload.As<Napi::Uint8Array>();
    probe.payload.assign(reinterpret_cast<const char*>(bytes.Data()), bytes.ByteLength());
  }
  return probe;
}

/// sendProbes(probes, timeoutMs), see NativeAddon in src/native.ts.
Napi::Value send_probes(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  auto refuse = [env](const char* why) {
    Napi::TypeError::New(env, why).ThrowAsJavaScriptException();
    return env.Undefined();
  };
  if (info.Length() < 2 || !info[0].IsArray() || !info[1].IsNumber())
    return refuse("sendProbes(probes: object[], timeoutMs: number)");
  auto list = info[0].As<Napi::Array>();
  if (list.Length() > kMaxProbes) return refuse("sendProbes: too many");
  std::vector<Probe> probes;
  for (uint32_t i = 0; i < list.Length(); i++) {
    Napi::Value item = list.Get(i);
    if (!item.IsObject()) return refuse("sendProbes: not a probe");
    probes.push_back(probe_of(item.As<Napi::Object>()));
    if (probes.back().destination.length == 0) return refuse("sendProbes: not an address");
  }
  auto timeout = static_cast<uint64_t>(std::max(0.0, info[1].As<Napi::Number>().DoubleValue()));
  auto* worker = new Probing(env, std::move(probes), timeout);
  Napi::Promise promise = worker->promise();
  worker->Queue();
  return promise;
}

}  // namespace

void init_leak_probe(Napi::Env env, Napi::Object exports) {
  exports.Set("sendProbes", Napi::Function::New(env, send_probes, "sendProbes"));
}
