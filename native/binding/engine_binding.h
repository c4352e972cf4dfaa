// The engine for TypeScript: openTun, closeFd, startEngine, probe, versions.
#pragma once
#include <napi.h>

void init_engine(Napi::Env env, Napi::Object exports);
