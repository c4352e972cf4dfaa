// Registers everything the addon gives to TypeScript (src/native.ts is the typed face).
#include <linux/capability.h>
#include <napi.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "binding/engine_binding.h"
#include "binding/file_binding.h"
#include "binding/leak_probe_binding.h"
#include "binding/memory_binding.h"
#include "binding/netlink_binding.h"
#include "binding/nftables_binding.h"
#include "binding/socket_binding.h"

// A capability that came in by the ambient set (native/launcher) stays with this process: no child
// inherits it, and memory that others must not write to is not for them to read or dump either.
static void keep_capability_to_ourselves() {
  if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_NET_ADMIN, 0, 0) != 1) return;
  prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3]{};
  if (syscall(SYS_capget, &header, sets) == 0) {
    for (auto& set : sets) set.inheritable = 0;
    syscall(SYS_capset, &header, sets);
  }
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
}

static Napi::Object init(Napi::Env env, Napi::Object exports) {
  keep_capability_to_ourselves();
  init_engine(env, exports);
  init_file(env, exports);
  init_leak_probe(env, exports);
  init_memory(env, exports);
  init_netlink(env, exports);
  init_nftables(env, exports);
  init_socket(env, exports);
  return exports;
}

NODE_API_MODULE(proxyvpn, init)
