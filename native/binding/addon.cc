// Registers everything the addon gives to TypeScript (src/native.ts is the typed face).
#include <napi.h>
#include <sys/prctl.h>

#include "binding/engine_binding.h"
#include "binding/file_binding.h"
#include "binding/netlink_binding.h"
#include "binding/nftables_binding.h"

static Napi::Object init(Napi::Env env, Napi::Object exports) {
  // A capability that came in by the ambient set stays with this process: no child inherits it.
  prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  init_engine(env, exports);
  init_file(env, exports);
  init_netlink(env, exports);
  init_nftables(env, exports);
  return exports;
}

NODE_API_MODULE(proxyvpn, init)
