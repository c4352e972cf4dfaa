// Gives memory back to the kernel that a start has used and a quiet daemon does not.
#pragma once
#include <napi.h>

/// Registers `trimMemory`, typed in src/native.ts.
void init_memory(Napi::Env env, Napi::Object exports);
