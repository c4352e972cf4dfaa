// The engine for TypeScript: openTun, closeFd, startEngine, probe, versions.
#include "binding/engine_binding.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "binding/arguments.h"
#include "binding/errors.h"
#include "binding/probe_binding.h"
#include "engine/engine.h"
#include "tun/tun_device.h"

extern "C" {
#include "lwip/init.h"
}

namespace {

using binding::boolean;
using binding::number;
using binding::text;

// How a JavaScript engine object owns the native one: the environment's cleanup hook and stop() both
// join the thread before the thread-safe functions go (nodejs/node#38775 lists the races).
class EngineObject : public Napi::ObjectWrap<EngineObject> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "Engine",
                       {InstanceMethod<&EngineObject::counters>("counters"),
                        InstanceMethod<&EngineObject::set_upstreams>("setUpstreams"),
                        InstanceMethod<&EngineObject::flows>("flows"),
                        InstanceMethod<&EngineObject::stop>("stop")});
  }

  explicit EngineObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<EngineObject>(info) {
    Napi::Env env = info.Env();
    auto options = info[0].As<Napi::Object>();
    auto fds = options.Get("tunFds").As<Napi::Array>();
    int given = fds.Length() ? fds.Get(uint32_t{0}).As<Napi::Number>().Int32Value() : -1;
    base::UniqueFd fd(fcntl(given, F_DUPFD_CLOEXEC, 3));
    if (!fd) {
      throw_errno(env, "dup", errno);
      return;
    }
    if (auto configured = tun::configure_queue(fd.get()); !configured) {
      throw_errno(env, configured.failure().syscall, configured.failure().error);
      return;
    }
    if (!read_upstreams(env, options.Get("upstreams"))) return;

    events_ = Napi::ThreadSafeFunction::New(env, info[1].As<Napi::Function>(), "proxyvpn-events", 0, 1);
    events_.Unref(env);  // waiting for events does not keep the process
    auto dialer = std::make_unique<relay::SocketDialer>(
        static_cast<uint32_t>(number(options, "fwmark")),
        static_cast<uint32_t>(number(options, "keepaliveMs") / 1000));
    auto wake = [events = events_, weak = std::weak_ptr<Running>(running_)] { wake_up(events, weak); };
    auto created = engine::Engine::create(std::make_unique<tun::TunDevice>(std::move(fd)),
                                          std::move(dialer), read_options(options), wake);
    if (!created) {
      events_.Release();
      throw_errno(env, created.failure().syscall, created.failure().error);
      return;
    }
    running_->engine = std::move(created.value());
    counters_ = Napi::Persistent(Napi::ArrayBuffer::New(env, running_->engine->counters().data(),
                                                        engine::kCounterSlots * sizeof(uint64_t)));
    running_->engine->set_upstreams(std::move(upstreams_));
    running_->engine->start();
    Ref();  // a running engine is not garbage, whoever forgot it
    napi_add_env_cleanup_hook(env, finish_at_exit, this);
  }

 private:
  static engine::Options read_options(const Napi::Object& options) {
    engine::Options out;
    auto request = options.Get("request").As<Napi::Object>();
    out.relay.request = {text(request, "head"), text(request, "middle"), text(request, "tail")};
    out.relay.early_accept = boolean(options, "earlyAccept");
    out.relay.connect_timeout_ms = static_cast<uint32_t>(number(options, "connectTimeoutMs"));
    out.relay.idle_timeout_ms = static_cast<uint32_t>(number(options, "idleTimeoutMs"));
    out.relay.keepalive_ms = static_cast<uint32_t>(number(options, "keepaliveMs"));
    auto memory = static_cast<uint64_t>(number(options, "memoryBytes"));
    out.relay.send_limit = memory / 2;  // half each way
    out.driver.receive_limit = memory / 2;
    out.relay.max_flows = static_cast<uint32_t>(number(options, "maxFlows"));
    out.relay.max_pending = static_cast<uint32_t>(number(options, "maxPendingFlows"));
    out.driver.mtu = static_cast<uint32_t>(number(options, "mtu"));
    out.flow_events = boolean(options, "flowEvents");
    out.faults.drop_one_in = static_cast<uint32_t>(number(options, "dropOneIn"));
    return out;
  }

  bool read_upstreams(Napi::Env env, const Napi::Value& value) {
    auto list = value.As<Napi::Array>();
    upstreams_.clear();
    for (uint32_t i = 0; i < list.Length(); i++) {
      relay::UpstreamAddress upstream = binding::upstream(list.Get(i).As<Napi::Object>());
      if (upstream.length == 0) {
        Napi::TypeError::New(env, "upstream: not an address").ThrowAsJavaScriptException();
        return false;
      }
      upstreams_.push_back(upstream);
    }
    return true;
  }

  struct Running {
    std::unique_ptr<engine::Engine> engine;
  };

  // On the engine's thread: one call for a whole burst of events. The call may come after stop().
  static void wake_up(const Napi::ThreadSafeFunction& events, const std::weak_ptr<Running>& weak) {
    events.NonBlockingCall([weak](Napi::Env env, Napi::Function callback) {
      auto running = weak.lock();
      if (!running || !running->engine) return;
      std::vector<uint8_t> records = running->engine->take_events();
      if (!records.empty())
        callback.Call({Napi::Buffer<uint8_t>::Copy(env, records.data(), records.size())});
    });
  }

  static void finish_at_exit(void* self) { static_cast<EngineObject*>(self)->finish(); }

  Napi::Value counters(const Napi::CallbackInfo& info) {
    return Napi::BigUint64Array::New(info.Env(), engine::kCounterSlots, counters_.Value(), 0);
  }

  void set_upstreams(const Napi::CallbackInfo& info) {
    if (!is_finished_ && read_upstreams(info.Env(), info[0])) running_->engine->set_upstreams(std::move(upstreams_));
  }

  Napi::Value flows(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    auto deferred = Napi::Promise::Deferred::New(env);
    if (is_finished_) {
      deferred.Resolve(Napi::Buffer<uint8_t>::New(env, 0));
      return deferred.Promise();
    }
    auto nothing = Napi::Function::New(env, [](const Napi::CallbackInfo&) {});
    auto reply = Napi::ThreadSafeFunction::New(env, nothing, "proxyvpn-flows", 0, 1);
    running_->engine->list_flows(info[0].As<Napi::Number>().Uint32Value(),
                        [reply, deferred](std::vector<uint8_t> records) mutable {
                          reply.NonBlockingCall([deferred, records = std::move(records)](
                                                    Napi::Env on, Napi::Function) {
                            deferred.Resolve(Napi::Buffer<uint8_t>::Copy(on, records.data(), records.size()));
                          });
                          reply.Release();
                        });
    return deferred.Promise();
  }

  Napi::Value stop(const Napi::CallbackInfo& info) {
    auto deferred = Napi::Promise::Deferred::New(info.Env());
    if (!is_finished_) {
      napi_remove_env_cleanup_hook(info.Env(), finish_at_exit, this);
      finish();
      Unref();
    }
    deferred.Resolve(info.Env().Undefined());
    return deferred.Promise();
  }

  // Joins the thread; the counters stay readable as long as this object lives.
  void finish() {
    if (is_finished_) return;
    is_finished_ = true;
    running_->engine->stop();
    events_.Release();
  }

  std::shared_ptr<Running> running_ = std::make_shared<Running>();
  std::vector<relay::UpstreamAddress> upstreams_;
  Napi::ThreadSafeFunction events_;
  Napi::Reference<Napi::ArrayBuffer> counters_;
  bool is_finished_ = false;
};

Napi::Value open_tun(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  auto opened = tun::open_tun(info[0].As<Napi::String>(), info[1].As<Napi::Number>().Int32Value());
  if (!opened) {
    throw_errno(env, opened.failure().syscall, opened.failure().error);
    return env.Undefined();
  }
  Napi::Array fds = Napi::Array::New(env);
  uint32_t i = 0;
  for (base::UniqueFd& fd : opened.value().queues) fds[i++] = Napi::Number::New(env, fd.release());
  Napi::Object out = Napi::Object::New(env);
  out["name"] = Napi::String::New(env, opened.value().name);
  out["fds"] = fds;
  return out;
}

void close_fd(const Napi::CallbackInfo& info) {
  ::close(info[0].As<Napi::Number>().Int32Value());
}

}  // namespace

void init_engine(Napi::Env env, Napi::Object exports) {
  auto* constructor = new Napi::FunctionReference(Napi::Persistent(EngineObject::define(env)));
  env.AddCleanupHook([constructor] { delete constructor; });
  exports["startEngine"] = Napi::Function::New(env, [constructor](const Napi::CallbackInfo& info) {
    return constructor->New({info[0], info[1]}).As<Napi::Value>();
  });
  exports["openTun"] = Napi::Function::New(env, open_tun);
  exports["closeFd"] = Napi::Function::New(env, close_fd);
  exports["probe"] = Napi::Function::New(env, probe);
  Napi::Object versions = Napi::Object::New(env);
  versions["lwip"] = Napi::String::New(env, LWIP_VERSION_STRING);
  exports["versions"] = versions;
}
