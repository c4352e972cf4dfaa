// Memory for lwIP and for packets: size-class free lists on one thread, no malloc per segment.
#pragma once
#include <sys/mman.h>

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
/// one and unmapped when more than a few are idle: malloc would keep the memory of a peak for ever.
template <class T>
class BufferPool {
 public:
  T* take() {
    if (head_) {
      T* p = head_;
      head_ = p->next;
      idle_--;
      return p;
    }
    if (kSanitized) return static_cast<T*>(malloc(sizeof(T)));
    void* p = mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? nullptr : static_cast<T*>(p);
  }
  void give(T* p) {
    if (idle_ >= kKeep) {
      release(p);
      return;
    }
    p->next = head_;
    head_ = p;
    idle_++;
  }
  ~BufferPool() {
    while (T* p = head_) {
      head_ = p->next;
      release(p);
    }
  }

 private:
  static void release(T* p) {
    if (kSanitized) {
      free(p);
    } else {
      munmap(p, sizeof(T));
    }
  }
  static constexpr uint32_t kKeep = kSanitized ? 0 : 32;  // 2 MiB of 64 KiB buffers
  T* head_ = nullptr;
  uint32_t idle_ = 0;
};

}  // namespace tcp
