// Sockets of the daemon itself that must not be routed into its own tunnel: SO_MARK has to precede
// the first packet.
#include "socket_binding.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "arguments.h"
#include "base/unique_fd.h"
#include "errors.h"

namespace {

/// Invalid, with the exception pending, where it cannot be made or marked.
base::UniqueFd marked_socket(Napi::Env env, int family, int type, uint32_t fwmark) {
  base::UniqueFd fd(socket(family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) {
    throw_errno(env, "socket", errno);
    return {};
  }
  if (setsockopt(fd.get(), SOL_SOCKET, SO_MARK, &fwmark, sizeof fwmark) != 0) {
    throw_errno(env, "setsockopt(SO_MARK)", errno);
    return {};
  }
  return fd;
}

Napi::Value marked_udp_socket(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (info.Length() < 2 || !info[0].IsNumber() || !info[1].IsNumber()) {
    Napi::TypeError::New(env, "markedUdpSocket(family: 4 | 6, fwmark: number)")
        .ThrowAsJavaScriptException();
    return env.Undefined();
  }
  int family = info[0].As<Napi::Number>().Int32Value() == 6 ? AF_INET6 : AF_INET;
  base::UniqueFd fd =
      marked_socket(env, family, SOCK_DGRAM, info[1].As<Napi::Number>().Uint32Value());
  if (!fd) return env.Undefined();
  return Napi::Number::New(env, fd.release());
}

Napi::Value marked_tcp_socket(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (info.Length() < 3 || !info[0].IsString() || !info[1].IsNumber() || !info[2].IsNumber()) {
    Napi::TypeError::New(env, "markedTcpSocket(address: string, port: number, fwmark: number)")
        .ThrowAsJavaScriptException();
    return env.Undefined();
  }
  Napi::Object where = Napi::Object::New(env);
  where.Set("address", info[0]);
  where.Set("port", info[1]);
  relay::UpstreamAddress to = binding::upstream(where);
  if (to.length == 0) {
    throw_errno(env, "inet_pton", EINVAL);
    return env.Undefined();
  }
  auto* address = reinterpret_cast<sockaddr*>(&to.address);
  uint32_t fwmark = info[2].As<Napi::Number>().Uint32Value();
  base::UniqueFd fd = marked_socket(env, address->sa_family, SOCK_STREAM, fwmark);
  if (!fd) return env.Undefined();
  int on = 1;
  setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (connect(fd.get(), address, to.length) != 0 && errno != EINPROGRESS) {
    throw_errno(env, "connect", errno);
    return env.Undefined();
  }
  return Napi::Number::New(env, fd.release());
}

}  // namespace

void init_socket(Napi::Env env, Napi::Object exports) {
  exports.Set("markedUdpSocket", Napi::Function::New(env, marked_udp_socket, "markedUdpSocket"));
  exports.Set("markedTcpSocket", Napi::Function::New(env, marked_tcp_socket, "markedTcpSocket"));
}
