// Reads plain JavaScript objects that TypeScript has already checked; whatever is missing is zero.
#pragma once
#include <arpa/inet.h>
#include <napi.h>

#include <string>

#include "relay/dialer.h"

namespace binding {

inline double number(const Napi::Object& object, const char* key) {
  Napi::Value v = object.Get(key);
  return v.IsNumber() ? v.As<Napi::Number>().DoubleValue() : 0;
}
inline bool boolean(const Napi::Object& object, const char* key) {
  Napi::Value v = object.Get(key);
  return v.IsBoolean() && v.As<Napi::Boolean>().Value();
}
inline std::string text(const Napi::Object& object, const char* key) {
  Napi::Value v = object.Get(key);
  return v.IsString() ? v.As<Napi::String>().Utf8Value() : std::string();
}

/// {address, port}; length 0 when the address is none.
inline relay::UpstreamAddress upstream(const Napi::Object& object) {
  relay::UpstreamAddress out;
  std::string address = text(object, "address");
  auto port = htons(static_cast<uint16_t>(number(object, "port")));
  auto* v4 = reinterpret_cast<sockaddr_in*>(&out.address);
  auto* v6 = reinterpret_cast<sockaddr_in6*>(&out.address);
  if (inet_pton(AF_INET, address.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = port;
    out.length = sizeof *v4;
  } else if (inet_pton(AF_INET6, address.c_str(), &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = port;
    out.length = sizeof *v6;
  }
  return out;
}

}  // namespace binding
