// AF_NETLINK for JavaScript.
#pragma once
#include <napi.h>

/// Registers `netlinkRequest`, typed in src/native.ts.
void init_netlink(Napi::Env env, Napi::Object exports);
