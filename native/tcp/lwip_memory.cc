// Memory for lwIP and for packets: size-class free lists on one thread, no malloc per segment.
#include "tcp/lwip_memory.h"

namespace tcp {

void* SizeClasses::take(size_t bytes) {
  size_t size_class = (bytes + sizeof(Header) + kStep - 1) / kStep;
  if (kSanitized || size_class > kClasses) {
    auto* h = static_cast<Header*>(malloc(bytes + sizeof(Header)));
    if (!h) return nullptr;
    h->size_class = 0;
    return h + 1;
  }
  if (void* p = free_[size_class]) {
    free_[size_class] = *static_cast<void**>(p);
    return p;
  }
  size_t need = size_class * kStep;
  if (slab_left_ < need) {
    slab_ = static_cast<char*>(malloc(kSlabBytes));
    slab_left_ = slab_ ? kSlabBytes : 0;
    if (!slab_) return nullptr;
  }
  auto* h = reinterpret_cast<Header*>(slab_);
  slab_ += need;
  slab_left_ -= need;
  h->size_class = static_cast<uint32_t>(size_class);
  return h + 1;
}

void SizeClasses::give(void* p) {
  if (!p) return;
  Header* h = static_cast<Header*>(p) - 1;
  if (h->size_class == 0) {
    free(h);
    return;
  }
  *static_cast<void**>(p) = free_[h->size_class];
  free_[h->size_class] = p;
}

}  // namespace tcp
