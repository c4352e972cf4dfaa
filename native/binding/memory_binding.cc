// Gives memory back to the kernel that a start has used and a quiet daemon does not.
//
// Freed memory: glibc keeps what is free in the middle of its arenas, of which every thread that
// ran libnftables has one.
//
// The program file: node's start maps 40 MB of its executable, the heap snapshot, the sources and
// the code of its own modules among them, and reads most of it once. These pages stay in the page
// cache; only our page tables lose them, so what is needed again costs a minor fault.
#include "memory_binding.h"

#include <limits.h>
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <string_view>

namespace {

struct Mapping {
  uintptr_t begin = 0;
  uintptr_t end = 0;
  bool is_program = false;
};

/// The header line of a mapping, proc_pid_smaps(5); false for the lines that describe it.
bool read_header(const char* line, std::string_view program, Mapping& mapping) {
  unsigned long begin = 0, end = 0, inode = 0;
  char permissions[8], path[PATH_MAX + 1] = "";
  int fields =
      sscanf(line, "%lx-%lx %7s %*s %*s %lu %4096s", &begin, &end, permissions, &inode, path);
  if (fields < 4) return false;
  mapping = {begin, end, false};
  bool is_read_only = permissions[0] == 'r' && permissions[1] == '-' && permissions[3] == 'p';
  mapping.is_program = is_read_only && inode != 0 && program == path;
  return true;
}

/// Only what has not one page of its own: those are not in the file (relocations,
/// --use-largepages).
void drop_program_pages() {
  char program[PATH_MAX];
  ssize_t length = readlink("/proc/self/exe", program, sizeof program);
  if (length <= 0 || length == sizeof program) return;
  FILE* smaps = fopen("/proc/self/smaps", "re");
  if (!smaps) return;
  char line[PATH_MAX + 128];
  Mapping mapping;
  unsigned long anonymous = 0;
  while (fgets(line, sizeof line, smaps)) {
    if (read_header(line, {program, static_cast<size_t>(length)}, mapping)) continue;
    if (!mapping.is_program || sscanf(line, "Anonymous: %lu kB", &anonymous) != 1) continue;
    if (anonymous == 0)
      madvise(reinterpret_cast<void*>(mapping.begin), mapping.end - mapping.begin, MADV_DONTNEED);
  }
  fclose(smaps);
}

Napi::Value trim_memory(const Napi::CallbackInfo& info) {
  malloc_trim(0);
  drop_program_pages();
  return info.Env().Undefined();
}

}  // namespace

void init_memory(Napi::Env env, Napi::Object exports) {
  exports.Set("trimMemory", Napi::Function::New(env, trim_memory, "trimMemory"));
}
