// libnftables, opened at run time: a host without it still gets the addon, and another backend.
//
// A command runs on a worker thread, one at a time, so that the event loop does not wait for the
// kernel. One context serves them all, made with the first command: libnftables waits for its
// socket with select(2), and a socket made when a thousand flows are open would have too high a
// number for that. Its cache is checked against the kernel's generation every time. What the
// commands mean is the business of src/firewall.
#include "nftables_binding.h"

#include <dlfcn.h>
#include <errno.h>
#include <linux/netlink.h>
#include <string.h>
#include <sys/socket.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "../base/unique_fd.h"

struct nft_ctx;  // nftables/libnftables.h, which is not needed to build

namespace {

constexpr const char* kDefaultLibrary = "libnftables.so.1";
constexpr uint32_t kContextFlags = 0;  // NFT_CTX_DEFAULT

/// The functions of libnftables(3) that are used; all exist since 0.9.0.
struct Library {
  nft_ctx* (*context_new)(uint32_t flags);
  void (*context_free)(nft_ctx* context);
  void (*set_dry_run)(nft_ctx* context, bool dry);
  void (*set_output_flags)(nft_ctx* context, unsigned flags);
  int (*buffer_output)(nft_ctx* context);
  int (*buffer_error)(nft_ctx* context);
  const char* (*output)(nft_ctx* context);
  const char* (*error)(nft_ctx* context);
  int (*run)(nft_ctx* context, const char* command);
};

struct Outcome {
  int rc = -1;
  std::string out;
  std::string err;
};

std::mutex running;

std::mutex loading;
// Never freed: the kept context belongs to its functions.
std::shared_ptr<const Library> loaded;  // under `loading`
std::string loaded_name;                // under `loading`

std::string last_dl_error() {
  const char* text = dlerror();
  return text ? text : "dlopen failed";
}

/// The functions of an opened library; null, with `why` set, when one is missing.
std::shared_ptr<const Library> functions_of(void* handle, std::string& why) {
  auto library = std::make_shared<Library>();
  bool is_complete = true;
  auto take = [&](auto& function, const char* name) {
    void* symbol = dlsym(handle, name);
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(symbol);
    if (symbol) return;
    is_complete = false;
    why = std::string("symbol is missing: ") + name;
  };
  take(library->context_new, "nft_ctx_new");
  take(library->context_free, "nft_ctx_free");
  take(library->set_dry_run, "nft_ctx_set_dry_run");
  take(library->set_output_flags, "nft_ctx_output_set_flags");
  take(library->buffer_output, "nft_ctx_buffer_output");
  take(library->buffer_error, "nft_ctx_buffer_error");
  take(library->output, "nft_ctx_get_output_buffer");
  take(library->error, "nft_ctx_get_error_buffer");
  take(library->run, "nft_run_cmd_from_buffer");
  if (!is_complete) return nullptr;
  return library;
}

/// "" when loaded, else why not. A loaded library is never closed: a worker may be inside it.
std::string load(const std::string& name) {
  std::lock_guard guard(loading);
  if (loaded && loaded_name == name) return "";
  void* handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) return last_dl_error();
  std::string why;
  auto library = functions_of(handle, why);
  if (!library) {
    dlclose(handle);
    return why;
  }
  static std::vector<std::shared_ptr<const Library>> all;
  all.push_back(library);
  loaded = std::move(library);
  loaded_name = name;
  return "";
}

std::shared_ptr<const Library> current_library() {
  std::lock_guard guard(loading);
  return loaded;
}

/// nft_ctx_new() ends the process when it cannot open this socket, so it is tried first.
int netfilter_socket_error() {
  base::UniqueFd fd(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER));
  return fd ? 0 : errno;
}

/// The context of this library; null when it cannot be made. Under `running`.
nft_ctx* kept_context(const Library& library) {
  static nft_ctx* context = nullptr;
  static const Library* made_by = nullptr;
  if (context && made_by == &library) return context;
  if (context) made_by->context_free(context);
  made_by = &library;
  context = library.context_new(kContextFlags);
  if (!context) return nullptr;
  // Unbuffered, they would be written to our own stdout and stderr.
  if (library.buffer_output(context) != 0 || library.buffer_error(context) != 0) {
    library.context_free(context);
    context = nullptr;
  }
  return context;
}

Outcome run_command(const Library& library, const std::string& command, unsigned output_flags,
                    bool is_dry) {
  std::lock_guard guard(running);
  if (int err = netfilter_socket_error()) {
    const char* text = strerrordesc_np(err);
    return {-1, "", std::string("cannot open a netfilter socket: ") + (text ? text : "unknown")};
  }
  nft_ctx* context = kept_context(library);
  if (!context) return {-1, "", "nft_ctx_new failed, or it cannot buffer its output"};
  library.set_output_flags(context, output_flags);
  library.set_dry_run(context, is_dry);
  Outcome outcome;
  outcome.rc = library.run(context, command.c_str());
  if (const char* text = library.output(context)) outcome.out = text;
  if (const char* text = library.error(context)) outcome.err = text;
  return outcome;
}

/// Deletes itself after it has settled the promise (Napi::AsyncWorker).
class CommandWorker : public Napi::AsyncWorker {
 public:
  CommandWorker(Napi::Env env, std::shared_ptr<const Library> library, std::string command,
                unsigned output_flags, bool is_dry)
      : Napi::AsyncWorker(env, "nftRun"),
        deferred_(env),
        library_(std::move(library)),
        command_(std::move(command)),
        output_flags_(output_flags),
        is_dry_(is_dry) {}

  Napi::Promise promise() const { return deferred_.Promise(); }

  void Execute() override { outcome_ = run_command(*library_, command_, output_flags_, is_dry_); }

  void OnOK() override {
    Napi::Object result = Napi::Object::New(Env());
    result.Set("rc", outcome_.rc);
    result.Set("out", outcome_.out);
    result.Set("err", outcome_.err);
    deferred_.Resolve(result);
  }

  void OnError(const Napi::Error& error) override { deferred_.Reject(error.Value()); }

 private:
  Napi::Promise::Deferred deferred_;
  std::shared_ptr<const Library> library_;
  std::string command_;
  unsigned output_flags_;
  bool is_dry_;
  Outcome outcome_;
};

Napi::Value refuse(Napi::Env env, const char* why) {
  Napi::TypeError::New(env, why).ThrowAsJavaScriptException();
  return env.Undefined();
}

/// nftLoad(library?: string): string | null, see NativeAddon in src/native.ts.
Napi::Value nft_load(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  std::string name = kDefaultLibrary;
  if (info.Length() > 0 && !info[0].IsUndefined()) {
    if (!info[0].IsString()) return refuse(env, "nftLoad(library?: string)");
    name = info[0].As<Napi::String>().Utf8Value();
  }
  std::string why = load(name);
  if (why.empty()) return env.Null();
  return Napi::String::New(env, why);
}

/// nftRun(command, outputFlags, dryRun): Promise<NftResult>, see NativeAddon in src/native.ts.
Napi::Value nft_run(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (info.Length() < 3 || !info[0].IsString() || !info[1].IsNumber() || !info[2].IsBoolean())
    return refuse(env, "nftRun(command: string, outputFlags: number, dryRun: boolean)");
  auto library = current_library();
  if (!library) return refuse(env, "nftRun: call nftLoad first");
  std::string command = info[0].As<Napi::String>().Utf8Value();
  // The library takes a C string: it would run the first half.
  if (command.find('\0') != std::string::npos) return refuse(env, "nftRun: NUL in the command");
  auto* worker = new CommandWorker(env, std::move(library), std::move(command),
                                   info[1].As<Napi::Number>().Uint32Value(),
                                   info[2].As<Napi::Boolean>().Value());
  Napi::Promise promise = worker->promise();
  worker->Queue();
  return promise;
}

}  // namespace

void init_nftables(Napi::Env env, Napi::Object exports) {
  exports.Set("nftLoad", Napi::Function::New(env, nft_load, "nftLoad"));
  exports.Set("nftRun", Napi::Function::New(env, nft_run, "nftRun"));
}
