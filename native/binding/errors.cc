// Turns an errno into the JavaScript error that src/errors.ts describes.
#include "errors.h"

#include <string.h>

#include <string>

namespace {

std::string symbolic_name(int err) {
  const char* name = strerrorname_np(err);  // glibc >= 2.32
  return name ? name : "E" + std::to_string(err);
}

std::string description(int err) {
  const char* text = strerrordesc_np(err);
  return text ? text : "unknown error";
}

}  // namespace

void throw_errno(Napi::Env env, const char* syscall, int err) {
  std::string code = symbolic_name(err);
  Napi::Error error =
      Napi::Error::New(env, std::string(syscall) + ": " + code + ": " + description(err));
  error.Set("code", code);
  error.Set("syscall", syscall);
  error.Set("errno", static_cast<double>(err));
  error.ThrowAsJavaScriptException();
}
