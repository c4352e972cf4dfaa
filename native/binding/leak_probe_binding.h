#pragma once
#include <napi.h>

/// Adds `sendProbes`, see NativeAddon in src/native.ts.
void init_leak_probe(Napi::Env env, Napi::Object exports);
