// flock(2) for JavaScript: Node has no file locks, and a lock that dies with its process needs one.
#include "file_binding.h"

#include <errno.h>
#include <sys/file.h>

#include "errors.h"

namespace {

Napi::Value flock_exclusive(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (info.Length() < 1 || !info[0].IsNumber()) {
    Napi::TypeError::New(env, "flockExclusive(fd: number)").ThrowAsJavaScriptException();
    return env.Undefined();
  }
  int fd = info[0].As<Napi::Number>().Int32Value();
  while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    if (errno == EINTR) continue;
    if (errno == EWOULDBLOCK) return Napi::Boolean::New(env, false);
    throw_errno(env, "flock", errno);
    return env.Undefined();
  }
  return Napi::Boolean::New(env, true);
}

}  // namespace

void init_file(Napi::Env env, Napi::Object exports) {
  exports.Set("flockExclusive", Napi::Function::New(env, flock_exclusive, "flockExclusive"));
}
