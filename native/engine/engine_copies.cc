// Private copies of the engine, one per TUN queue.
#include "engine/engine_copies.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <string>

extern "C" __attribute__((visibility("default"))) engine::EngineFace* proxyvpn_create_engine(
    engine::EngineParts& parts, base::Failure& failure) {
  auto created = engine::Engine::create(
      std::move(parts.device), std::move(parts.dialer), std::move(parts.options),
      std::move(parts.wake), std::move(parts.group), parts.queue, std::move(parts.wake_datagrams));
  if (created) return created.value().release();
  failure = created.failure();
  return nullptr;
}

namespace engine {
namespace {

// The file this code was loaded from, copied into memory.
base::Result<int> copy_of_self() {
  Dl_info self{};
  if (!dladdr(reinterpret_cast<void*>(&proxyvpn_create_engine), &self) || !self.dli_fname)
    return base::Failure{"dladdr", ENOENT};
  base::UniqueFd from(open(self.dli_fname, O_RDONLY | O_CLOEXEC));
  if (!from) return base::Failure{"open addon", errno};
  struct stat size {};
  if (fstat(from.get(), &size) < 0) return base::Failure{"fstat addon", errno};
  base::UniqueFd to(memfd_create("proxyvpn-engine", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!to) return base::Failure{"memfd_create", errno};
  char buffer[65536];
  for (off_t at = 0; at < size.st_size;) {
    ssize_t n = pread(from.get(), buffer, sizeof buffer, at);
    if (n <= 0) return base::Failure{"read addon", n < 0 ? errno : EIO};
    for (ssize_t done = 0; done < n;) {
      ssize_t written = write(to.get(), buffer + done, static_cast<size_t>(n - done));
      if (written < 0) return base::Failure{"write memfd", errno};
      done += written;
    }
    at += n;
  }
  if (fcntl(to.get(), F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0)
    return base::Failure{"seal memfd", errno};
  return to.release();
}

}  // namespace

base::Result<CreateEngine> engine_copy(uint32_t n) {
  static std::vector<CreateEngine> loaded{&proxyvpn_create_engine};
  while (loaded.size() <= n) {
    auto copied = copy_of_self();
    if (!copied) return copied.failure();
    // The descriptor stays open: the loader tells objects apart by inode, and a path that named
    // another file by then would confuse debuggers.
    std::string path = "/proc/self/fd/" + std::to_string(copied.value());
    void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!handle) return base::Failure{"dlopen engine copy", ENOEXEC};
    auto create = reinterpret_cast<CreateEngine>(dlsym(handle, "proxyvpn_create_engine"));
    if (!create || create == loaded[0]) return base::Failure{"dlsym engine copy", ENOEXEC};
    loaded.push_back(create);
  }
  return loaded[n];
}

}  // namespace engine
