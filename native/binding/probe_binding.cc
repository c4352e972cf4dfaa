// One marked exchange with the proxy, before anything on the host is changed.
#include "binding/probe_binding.h"

#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "base/unique_fd.h"
#include "binding/arguments.h"
#include "engine/engine.h"
#include "relay/connect_reply.h"

namespace {

struct Answer {
  int error = 0;
  bool connected = false;
  std::string reply;
};

class Probe : public Napi::AsyncWorker {
 public:
  Probe(Napi::Env env, const relay::UpstreamAddress& upstream, const Napi::Object& options)
      : Napi::AsyncWorker(env, "proxyvpn-probe"),
        deferred_(Napi::Promise::Deferred::New(env)),
        upstream_(upstream),
        fwmark_(static_cast<uint32_t>(binding::number(options, "fwmark"))),
        request_(binding::text(options, "request")),
        deadline_ms_(engine::monotonic_ms() +
                     static_cast<uint64_t>(binding::number(options, "timeoutMs"))) {}

  Napi::Promise promise() { return deferred_.Promise(); }

  void Execute() override { answer_.error = exchange(); }

  void OnOK() override {
    Napi::Env env = Env();
    Napi::HandleScope scope(env);
    Napi::Object out = Napi::Object::New(env);
    out["errno"] = Napi::Number::New(env, answer_.error);
    const char* name = answer_.error ? strerrorname_np(answer_.error) : "";
    out["code"] = Napi::String::New(env, name ? name : "EUNKNOWN");
    out["connected"] = Napi::Boolean::New(env, answer_.connected);
    out["reply"] = Napi::Buffer<char>::Copy(env, answer_.reply.data(), answer_.reply.size());
    deferred_.Resolve(out);
  }

  void OnError(const Napi::Error& error) override { deferred_.Reject(error.Value()); }

 private:
  // @return 0, or errno; ETIMEDOUT at the deadline
  int wait_for(int fd, short events) {
    for (;;) {
      uint64_t now = engine::monotonic_ms();
      if (now >= deadline_ms_) return ETIMEDOUT;
      pollfd p{fd, events, 0};
      int n = poll(&p, 1, static_cast<int>(deadline_ms_ - now));
      if (n > 0) return 0;
      if (n < 0 && errno != EINTR) return errno;
    }
  }

  int exchange() {
    relay::SocketDialer dialer(fwmark_);
    bool in_progress = false;
    int dialled = dialer.dial(upstream_, in_progress);
    if (dialled < 0) return -dialled;
    base::UniqueFd fd(dialled);
    if (in_progress) {
      if (int error = wait_for(fd.get(), POLLOUT)) return error;
      int error = 0;
      socklen_t length = sizeof error;
      getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &length);
      if (error) return error;
    }
    answer_.connected = true;
    if (send(fd.get(), request_.data(), request_.size(), MSG_NOSIGNAL) < 0) return errno;
    return read_head(fd.get());
  }

  int read_head(int fd) {
    relay::ConnectReply reply;
    for (;;) {
      if (int error = wait_for(fd, POLLIN)) return error;
      uint8_t buffer[4096];
      ssize_t n = recv(fd, buffer, sizeof buffer, 0);
      if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      if (n < 0) return errno;
      if (n == 0) return answer_.reply.empty() ? ECONNRESET : 0;
      answer_.reply.append(reinterpret_cast<char*>(buffer), static_cast<size_t>(n));
      size_t rest;
      if (reply.feed({buffer, static_cast<size_t>(n)}, rest) !=
          relay::ConnectReply::State::kIncomplete)
        return 0;
    }
  }

  Napi::Promise::Deferred deferred_;
  relay::UpstreamAddress upstream_;
  uint32_t fwmark_;
  std::string request_;
  uint64_t deadline_ms_;
  Answer answer_;
};

}  // namespace

Napi::Value probe(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  relay::UpstreamAddress upstream = binding::upstream(info[0].As<Napi::Object>());
  if (upstream.length == 0) {
    Napi::TypeError::New(env, "probe: not an address").ThrowAsJavaScriptException();
    return env.Undefined();
  }
  auto* worker = new Probe(env, upstream, info[1].As<Napi::Object>());
  Napi::Promise promise = worker->promise();
  worker->Queue();
  return promise;
}
