// The byte pattern that labproxy sends and labload checks, and the small things both programs share.
#ifndef PROXYVPN_TEST_LAB_PATTERN_H
#define PROXYVPN_TEST_LAB_PATTERN_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

// Byte i of a stream is pattern[(OFFSET + i) mod PATTERN_PERIOD]. The period is prime, so no buffer
// size divides it: a block that is lost, doubled or swapped shows at the next byte.
#define PATTERN_PERIOD 1048573u
// Behind the period its first bytes are repeated, so that this many are contiguous from anywhere.
#define PATTERN_TAIL (512u << 10)

#define FNV_OFFSET_BASIS 14695981039346656037ull
#define FNV_PRIME 1099511628211ull

// xorshift64 (13, 7, 17), one byte of each value. The caller owns the result.
static inline unsigned char *pattern_new(void) {
  unsigned char *bytes = malloc(PATTERN_PERIOD + PATTERN_TAIL);
  if (bytes == NULL) {
    perror("pattern");
    exit(1);
  }
  uint64_t x = 88172645463325252ull;
  for (size_t i = 0; i < PATTERN_PERIOD; i++) {
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    bytes[i] = (unsigned char)(x >> 32);
  }
  memcpy(bytes + PATTERN_PERIOD, bytes, PATTERN_TAIL);
  return bytes;
}

static inline uint64_t fnv1a(uint64_t hash, const unsigned char *bytes, size_t count) {
  for (size_t i = 0; i < count; i++)
    hash = (hash ^ bytes[i]) * FNV_PRIME;
  return hash;
}

static inline uint64_t monotonic_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

// As many open files as this user may have.
static inline void raise_open_files(void) {
  struct rlimit limit = {1048576, 1048576};
  if (setrlimit(RLIMIT_NOFILE, &limit) == 0)
    return;
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

#endif
