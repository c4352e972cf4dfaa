// The engine for TypeScript: openTun, closeFd, startEngine, probe, versions.
#include "binding/engine_binding.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "binding/arguments.h"
#include "binding/errors.h"
#include "binding/probe_binding.h"
#include "engine/engine_copies.h"
#include "tun/tun_device.h"

extern "C" {
#include "lwip/init.h"
}

namespace {

using binding::boolean;
using binding::number;
using binding::text;

constexpr const char* kBadNames = "names: not a table of names";

// EngineNames of src/native.ts. @return nothing when it is none
std::shared_ptr<stack::NameTable> read_names(const Napi::Object& names) {
  std::vector<wire::VirtualRange::Gap> gaps;
  Napi::Value list = names.Get("gaps4");
  Napi::Value words = names.Get("flowWords");
  if (!list.IsArray() || !words.IsTypedArray() ||
      words.As<Napi::TypedArray>().TypedArrayType() != napi_uint32_array)
    return nullptr;
  for (uint32_t i = 0; i < list.As<Napi::Array>().Length(); i++) {
    auto gap = list.As<Napi::Array>().Get(i).As<Napi::Object>();
    gaps.push_back(
        {static_cast<uint32_t>(number(gap, "offset")), static_cast<uint32_t>(number(gap, "size"))});
  }
  auto flow_words = words.As<Napi::Uint32Array>();
  auto range =
      wire::VirtualRange::make(text(names, "prefix4"), text(names, "prefix6"), std::move(gaps),
                               static_cast<uint32_t>(flow_words.ElementLength()));
  if (!range) return nullptr;
  return std::make_shared<stack::NameTable>(std::move(*range), flow_words.Data());
}

// How a JavaScript engine object owns the native one: the environment's cleanup hook and stop()
// both join the thread before the thread-safe functions go (nodejs/node#38775 lists the races).
class EngineObject : public Napi::ObjectWrap<EngineObject> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "Engine",
                       {InstanceMethod<&EngineObject::counters>("counters"),
                        InstanceMethod<&EngineObject::set_upstreams>("setUpstreams"),
                        InstanceMethod<&EngineObject::set_names>("setNames"),
                        InstanceMethod<&EngineObject::send_datagrams>("sendDatagrams"),
                        InstanceMethod<&EngineObject::flows>("flows"),
                        InstanceMethod<&EngineObject::stop>("stop")});
  }

  explicit EngineObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<EngineObject>(info) {
    Napi::Env env = info.Env();
    auto options = info[0].As<Napi::Object>();
    if (!read_upstreams(env, options.Get("upstreams")) || !read_names_option(env, options)) return;
    events_ = listener(info[1], "proxyvpn-events");
    if (info[2].IsFunction()) datagrams_ = listener(info[2], "proxyvpn-datagrams");
    base::Failure failure = create_engines(options);
    if (failure.syscall) {
      running_->engines.clear();
      release_listeners();
      is_finished_ = true;
      throw_errno(env, failure.syscall, failure.error);
      return;
    }
    for (auto& engine : running_->engines) {
      engine->set_upstreams(upstreams_);
      engine->start();
    }
    Ref();  // a running engine is not garbage, whoever forgot it
    napi_add_env_cleanup_hook(env, finish_at_exit, this);
  }

 private:
  // One engine per queue, each in its own copy of the code.
  base::Failure create_engines(const Napi::Object& options) {
    auto fds = options.Get("tunFds").As<Napi::Array>();
    auto writers = options.Get("tunWriterFds").As<Napi::Array>();
    uint32_t queues = fds.Length();
    if (queues == 0) return {"tunFds", EINVAL};
    std::shared_ptr<engine::QueueGroup> group;
    if (queues > 1) group = std::make_shared<engine::QueueGroup>(queues);
    for (uint32_t i = 0; i < queues; i++) {
      base::UniqueFd fd(fcntl(fds.Get(i).As<Napi::Number>().Int32Value(), F_DUPFD_CLOEXEC, 3));
      if (!fd) return {"dup", errno};
      if (auto configured = tun::configure_queue(fd.get()); !configured)
        return configured.failure();
      auto create = engine::engine_copy(i);
      if (!create) return create.failure();
      engine::EngineParts parts;
      base::UniqueFd writer;
      if (i < writers.Length()) {
        writer.reset(fcntl(writers.Get(i).As<Napi::Number>().Int32Value(), F_DUPFD_CLOEXEC, 3));
        if (!writer) return {"dup", errno};
      }
      parts.device = std::make_unique<tun::TunDevice>(std::move(fd), std::move(writer));
      parts.dialer =
          std::make_unique<relay::SocketDialer>(static_cast<uint32_t>(number(options, "fwmark")));
      parts.options = read_options(options, queues, i);
      parts.options.relay.names = names_;
      parts.options.relay.catches_dns = catches_dns_;
      parts.options.relay.dns_socket = dns_socket_;
      parts.wake = [events = events_, weak = std::weak_ptr<Running>(running_)] {
        wake_up(events, weak, &engine::EngineFace::take_events);
      };
      if (datagrams_) {
        parts.wake_datagrams = [datagrams = datagrams_, weak = std::weak_ptr<Running>(running_)] {
          wake_up(datagrams, weak, &engine::EngineFace::take_datagrams);
        };
      }
      parts.group = group;
      parts.queue = i;
      base::Failure failure{nullptr, 0};
      auto* engine = create.value()(parts, failure);
      if (!engine) return failure;
      running_->engines.emplace_back(engine);
    }
    return {nullptr, 0};
  }

  // Limits are of the whole tunnel, so each of its engines gets a part. What does not divide goes
  // to the first ones, who judge for all (engine/queue_group.h).
  static engine::Options read_options(const Napi::Object& options, uint32_t queues,
                                      uint32_t queue) {
    auto part_of = [&](const char* limit) {
      auto whole = static_cast<uint32_t>(number(options, limit));
      return whole / queues + (queue < whole % queues ? 1 : 0);
    };
    engine::Options out;
    auto request = options.Get("request").As<Napi::Object>();
    out.relay.request = {text(request, "head"), text(request, "middle"), text(request, "tail")};
    out.relay.early_accept = boolean(options, "earlyAccept");
    out.relay.connect_timeout_ms = static_cast<uint32_t>(number(options, "connectTimeoutMs"));
    out.relay.idle_timeout_ms = static_cast<uint32_t>(number(options, "idleTimeoutMs"));
    out.relay.keepalive_ms = static_cast<uint32_t>(number(options, "keepaliveMs"));
    auto memory = static_cast<uint64_t>(number(options, "memoryBytes")) / queues;
    out.relay.send_limit = memory / 2;  // half each way
    out.driver.windows.sum = memory / 2;
    // One at least: the kernel's hash, not we, says which engine gets a flow.
    out.relay.max_flows = std::max(part_of("maxFlows"), 1u);
    out.relay.max_pending = std::max(part_of("maxPendingFlows"), 1u);
    out.driver.mtu = static_cast<uint32_t>(number(options, "mtu"));
    out.relay.predial = part_of("predial");
    out.relay.sniffs = boolean(options, "sniff");
    out.flow_events = boolean(options, "flowEvents");
    if (options.Get("faults").IsObject()) out.faults = read_faults(options.Get("faults"));
    return out;
  }

  static tun::Faults read_faults(const Napi::Value& value) {
    auto faults = value.As<Napi::Object>();
    return {.drop_one_in = static_cast<uint32_t>(number(faults, "dropOneIn")),
            .duplicate_one_in = static_cast<uint32_t>(number(faults, "duplicateOneIn")),
            .delay_one_in = static_cast<uint32_t>(number(faults, "delayOneIn")),
            .cuts = boolean(faults, "cuts")};
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

  bool read_names_option(Napi::Env env, const Napi::Object& options) {
    Napi::Value value = options.Get("names");
    if (!value.IsObject()) return true;
    auto names = value.As<Napi::Object>();
    names_ = read_names(names);
    catches_dns_ = boolean(names, "catchesDns");
    if (catches_dns_) dns_socket_ = relay::unix_address(text(names, "dnsSocket"));
    if (!names_ || (catches_dns_ && dns_socket_.length == 0)) {
      Napi::TypeError::New(env, names_ ? "dnsSocket: not a path of a socket" : kBadNames)
          .ThrowAsJavaScriptException();
      return false;
    }
    flow_words_ = Napi::Persistent(names.Get("flowWords").As<Napi::Object>());
    return true;
  }

  // Waiting for its calls does not keep the process.
  static Napi::ThreadSafeFunction listener(const Napi::Value& callback, const char* name) {
    Napi::Env env = callback.Env();
    auto out = Napi::ThreadSafeFunction::New(env, callback.As<Napi::Function>(), name, 0, 1);
    out.Unref(env);
    return out;
  }

  void release_listeners() {
    events_.Release();
    if (datagrams_) datagrams_.Release();
  }

  struct Running {
    std::vector<std::unique_ptr<engine::EngineFace>> engines;
  };

  // On the engine's thread: one call for a whole burst. The call may come after stop().
  static void wake_up(const Napi::ThreadSafeFunction& listener, const std::weak_ptr<Running>& weak,
                      std::vector<uint8_t> (engine::EngineFace::*take)()) {
    listener.NonBlockingCall([weak, take](Napi::Env env, Napi::Function callback) {
      auto running = weak.lock();
      if (!running) return;
      for (size_t i = 0; i < running->engines.size(); i++) {  // the callback may stop them
        std::vector<uint8_t> records = (running->engines[i].get()->*take)();
        if (!records.empty())
          callback.Call({Napi::Buffer<uint8_t>::Copy(env, records.data(), records.size())});
      }
    });
  }

  static void finish_at_exit(void* self) { static_cast<EngineObject*>(self)->finish(); }

  Napi::Value counters(const Napi::CallbackInfo& info) {
    auto out = Napi::BigUint64Array::New(info.Env(), engine::kCounterSlots);
    std::copy(final_counters_.begin(), final_counters_.end(), out.Data());
    for (auto& engine : running_->engines) engine->counters().add_to(out.Data());
    return out;
  }

  void set_upstreams(const Napi::CallbackInfo& info) {
    if (is_finished_ || !read_upstreams(info.Env(), info[0])) return;
    for (auto& engine : running_->engines) engine->set_upstreams(upstreams_);
  }

  void set_names(const Napi::CallbackInfo& info) {
    if (is_finished_ || !names_ || !info[0].IsArray()) return;
    auto changes = info[0].As<Napi::Array>();
    for (uint32_t i = 0; i < changes.Length(); i++) {
      Napi::HandleScope scope(info.Env());
      auto change = changes.Get(i).As<Napi::Object>();
      names_->set(static_cast<uint32_t>(number(change, "slot")), text(change, "hostname"));
    }
  }

  // Any queue will do; a program's kernel does not ask which one its answer came by.
  void send_datagrams(const Napi::CallbackInfo& info) {
    if (is_finished_ || !info[0].IsTypedArray()) return;
    auto batch = info[0].As<Napi::Uint8Array>();
    const uint8_t* bytes = batch.Data();
    running_->engines[0]->send_datagrams({bytes, bytes + batch.ByteLength()});
  }

  // Gathers the answers of all engines; the last one resolves the promise.
  struct FlowList {
    std::mutex mutex;
    std::vector<uint8_t> records;
    size_t missing;
  };

  Napi::Value flows(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    auto deferred = Napi::Promise::Deferred::New(env);
    if (is_finished_) {
      deferred.Resolve(Napi::Buffer<uint8_t>::New(env, 0));
      return deferred.Promise();
    }
    auto nothing = Napi::Function::New(env, [](const Napi::CallbackInfo&) {});
    auto reply = Napi::ThreadSafeFunction::New(env, nothing, "proxyvpn-flows", 0, 1);
    auto list = std::make_shared<FlowList>();
    list->missing = running_->engines.size();
    auto on_list = [reply, deferred, list](std::vector<uint8_t> records) mutable {
      std::lock_guard lock(list->mutex);
      list->records.insert(list->records.end(), records.begin(), records.end());
      if (--list->missing > 0) return;
      reply.NonBlockingCall([deferred, list](Napi::Env on, Napi::Function) {
        deferred.Resolve(
            Napi::Buffer<uint8_t>::Copy(on, list->records.data(), list->records.size()));
      });
      reply.Release();
    };
    size_t each = info[0].As<Napi::Number>().Uint32Value() / running_->engines.size() + 1;
    for (auto& engine : running_->engines) engine->list_flows(each, on_list);
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

  // Joins the threads and lets go of the device; the counters keep their last values.
  void finish() {
    if (is_finished_) return;
    is_finished_ = true;
    for (auto& engine : running_->engines) {
      engine->stop();
      engine->counters().add_to(final_counters_.data());
    }
    running_->engines.clear();
    release_listeners();
    flow_words_.Reset();
  }

  std::shared_ptr<Running> running_ = std::make_shared<Running>();
  std::vector<relay::UpstreamAddress> upstreams_;
  std::shared_ptr<stack::NameTable> names_;
  bool catches_dns_ = false;
  relay::UpstreamAddress dns_socket_;
  Napi::ObjectReference flow_words_;
  Napi::ThreadSafeFunction events_;
  Napi::ThreadSafeFunction datagrams_;
  std::array<uint64_t, engine::kCounterSlots> final_counters_{};
  bool is_finished_ = false;
};

Napi::Value open_tun(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  auto opened = tun::open_tun(info[0].As<Napi::String>(), info[1].As<Napi::Number>().Int32Value());
  if (!opened) {
    throw_errno(env, opened.failure().syscall, opened.failure().error);
    return env.Undefined();
  }
  auto released = [env](std::vector<base::UniqueFd>& from) {
    Napi::Array to = Napi::Array::New(env);
    uint32_t i = 0;
    for (base::UniqueFd& fd : from) to[i++] = Napi::Number::New(env, fd.release());
    return to;
  };
  Napi::Object out = Napi::Object::New(env);
  out["name"] = Napi::String::New(env, opened.value().name);
  out["fds"] = released(opened.value().queues);
  out["writerFds"] = released(opened.value().writers);
  return out;
}

void close_fd(const Napi::CallbackInfo& info) { ::close(info[0].As<Napi::Number>().Int32Value()); }

}  // namespace

void init_engine(Napi::Env env, Napi::Object exports) {
  auto* constructor = new Napi::FunctionReference(Napi::Persistent(EngineObject::define(env)));
  env.AddCleanupHook([constructor] { delete constructor; });
  exports["startEngine"] = Napi::Function::New(env, [constructor](const Napi::CallbackInfo& info) {
    return constructor->New({info[0], info[1], info[2]}).As<Napi::Value>();
  });
  exports["openTun"] = Napi::Function::New(env, open_tun);
  exports["closeFd"] = Napi::Function::New(env, close_fd);
  exports["probe"] = Napi::Function::New(env, probe);
  Napi::Object versions = Napi::Object::New(env);
  versions["lwip"] = Napi::String::New(env, LWIP_VERSION_STRING);
  exports["versions"] = versions;
}
