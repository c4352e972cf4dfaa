// libnftables for JavaScript.
#pragma once
#include <napi.h>

/// Registers `nftLoad` and `nftRun`, typed in src/native.ts.
void init_nftables(Napi::Env env, Napi::Object exports);
