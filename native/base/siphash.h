// SipHash-2-4 (Aumasson and Bernstein, 2012): keyed hash for tables that strangers fill and for
// initial sequence numbers (RFC 6528 section 3).
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace base {

struct SipKey {
  uint64_t k0 = 0;
  uint64_t k1 = 0;
};

/// Hash of `count` 64-bit words.
inline uint64_t siphash(const SipKey& key, const uint64_t* words, size_t count) {
  auto rotl = [](uint64_t x, int b) { return x << b | x >> (64 - b); };
  uint64_t v0 = 0x736f6d6570736575ull ^ key.k0;
  uint64_t v1 = 0x646f72616e646f6dull ^ key.k1;
  uint64_t v2 = 0x6c7967656e657261ull ^ key.k0;
  uint64_t v3 = 0x7465646279746573ull ^ key.k1;
  auto round = [&] {
    v0 += v1;
    v1 = rotl(v1, 13);
    v1 ^= v0;
    v0 = rotl(v0, 32);
    v2 += v3;
    v3 = rotl(v3, 16);
    v3 ^= v2;
    v0 += v3;
    v3 = rotl(v3, 21);
    v3 ^= v0;
    v2 += v1;
    v1 = rotl(v1, 17);
    v1 ^= v2;
    v2 = rotl(v2, 32);
  };
  for (size_t i = 0; i < count; i++) {
    v3 ^= words[i];
    round();
    round();
    v0 ^= words[i];
  }
  uint64_t last = static_cast<uint64_t>(count * 8) << 56;
  v3 ^= last;
  round();
  round();
  v0 ^= last;
  v2 ^= 0xff;
  for (int i = 0; i < 4; i++) round();
  return v0 ^ v1 ^ v2 ^ v3;
}

/// Fills `key` from getrandom(2). Aborts when the kernel has no randomness to give.
void random_bytes(void* out, size_t length);
inline SipKey random_key() {
  SipKey key;
  random_bytes(&key, sizeof key);
  return key;
}

}  // namespace base
