// Memory for lwIP and for packets: size-class free lists on one thread, no malloc per segment.
#pragma once
#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

namespace tcp {

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kSanitized = true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif
#else
constexpr bool kSanitized = false;
#endif

/// Bytes in 64-byte classes up to 4096, larger ones by malloc. Under ASan always malloc, so that
/// every use after free is seen.
class SizeClasses {
 public:
  void* take(size_t bytes);
  void give(void* p);

 private:
  struct Header {
    uint32_t size_class;
    uint32_t unused;
  };
  static constexpr size_t kStep = 64, kClasses = 64, kSlabBytes = 256 * 1024;
  void* free_[kClasses + 1] = {};
  char* slab_ = nullptr;
  size_t slab_left_ = 0;
};

/// LIFO, so that the buffer that is still in the cache comes back first. Buffers are mapped one by
/// one, and unmapped by trim(): malloc would keep the memory of a peak for ever, and unmapping what
/// the next packet maps anew costs a page fault for each 4 KiB (docs/performance.md). Under ASan
/// malloc, as above.
template <class T, bool kPools = !kSanitized>
class BufferPool {
 public:
  T* take() {
    if (head_) {
      T* p = head_;
      head_ = p->next;
      idle_--;
      lowest_idle_ = std::min(lowest_idle_, idle_);
      return p;
    }
    if (!kPools) return static_cast<T*>(malloc(sizeof(T)));
    void* p = mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? nullptr : static_cast<T*>(p);
  }
  void give(T* p) {
    if (!kPools) return release(p);
    p->next = head_;
    head_ = p;
    idle_++;
  }
  /// Unmaps what has been idle since the last call, but for a few. Call it about once a second.
  void trim() {
    uint32_t surplus = lowest_idle_ > kKeep ? lowest_idle_ - kKeep : 0;
    for (uint32_t left = std::min(surplus, kMostPerTrim); left > 0; left--) {
      T* p = head_;
      head_ = p->next;
      idle_--;
      release(p);
    }
    lowest_idle_ = idle_;
  }
  bool has_surplus() const { return idle_ > kKeep; }
  ~BufferPool() {
    while (T* p = head_) {
      head_ = p->next;
      release(p);
    }
  }

 private:
  static void release(T* p) {
    if (kPools) {
      munmap(p, sizeof(T));
    } else {
      free(p);
    }
  }
  static constexpr uint32_t kKeep = 32;          // 2 MiB of 64 KiB buffers
  static constexpr uint32_t kMostPerTrim = 512;  // 32 MiB; a few ms
  T* head_ = nullptr;
  uint32_t idle_ = 0;
  uint32_t lowest_idle_ = 0;  // since the last trim()
};

}  // namespace tcp
