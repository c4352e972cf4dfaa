// One marked exchange with the proxy, before anything on the host is changed.
#pragma once
#include <napi.h>

/// probe({address, port}, {fwmark, request, timeoutMs}): Promise<ProbeResult>
Napi::Value probe(const Napi::CallbackInfo& info);
