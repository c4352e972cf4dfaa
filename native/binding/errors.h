// How failed system calls cross from C++ to JavaScript.
#pragma once
#include <napi.h>

/// Throws an Error with `code` ("ENOENT"), `syscall` and `errno` (positive, as the kernel counts):
/// SystemCallFailure in src/errors.ts. The caller must return to JavaScript right after.
/// @param syscall static or caller-owned text, copied
/// @param err an errno
void throw_errno(Napi::Env env, const char* syscall, int err);
