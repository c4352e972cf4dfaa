// flock(2) for JavaScript.
#pragma once
#include <napi.h>

/// Registers `flockExclusive`, typed in src/native.ts.
void init_file(Napi::Env env, Napi::Object exports);
