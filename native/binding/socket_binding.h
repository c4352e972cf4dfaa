// Sockets that carry our mark from their birth, which Node cannot make.
#pragma once
#include <napi.h>

/// Registers `markedUdpSocket` and `markedTcpSocket`, typed in src/native.ts.
void init_socket(Napi::Env env, Napi::Object exports);
