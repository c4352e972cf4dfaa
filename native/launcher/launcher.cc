// Holds the file capability CAP_NET_ADMIN and starts node on the program that it carries inside.
//
// Theory of operation. Whoever may run this file may run proxyvpn, and must not get anything else
// to run with the capability. The kernel sees to the time before main(): a caller's ptrace,
// no_new_privs or nosuid mount means that no capability is gained, and the loader ignores LD_*.
// From here on:
//
//   node        one path, fixed when this file was linked; every component is root's alone
//   program     bundle, its code cache and addon are copied from this file into sealed memfds,
//   which
//               node is given as /proc/self/fd/N: none has a name that somebody else could take.
//               What node runs is boot.cjs, which reads the first two
//   arguments   stand behind the script's name, where node reads no option
//   environment only kPassed, as data; nothing that makes node, libc or OpenSSL load or run a file
//   descriptors 0, 1 and 2; closed ones become /dev/null
//   SIGUSR1     starts node's inspector, through which the caller would run what he likes: it is
//               ignored, and a seccomp filter makes each later sigaction for it do nothing
//   capability  reaches node by the ambient set; the addon empties that first of all, so that no
//               child inherits anything. The permitted set stays, and with it the kernel's refusal
//               of ptrace, /proc/PID/mem and the like to the same user, ptrace(2)
//
// The program starts itself again (its daemon) by this very file, PROXYVPN_LAUNCHER. With
// no_new_privs a file capability that the process holds already is granted again, so all of the
// above is done anew: security/commoncap.c, cap_bprm_creds_from_file().
//
// This file must belong to root and be writable for nobody else. write(2) makes the kernel drop
// the capability, but a store into a shared mapping does not.
//
// Root gets the same environment, and keeps what capabilities it has: nobody is kept out.
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <initializer_list>
#include <string_view>

#ifndef PROXYVPN_NODE
#error "PROXYVPN_NODE is the absolute path of node without symbolic links: see scripts/launcher.mjs"
#endif

// scripts/launcher.mjs compiles in a directory that holds them under these names.
__asm__(
    ".section .rodata\n"
    "launcher_boot: .incbin \"boot\"\n"
    "launcher_boot_end: .byte 0\n"
    "launcher_bundle: .incbin \"bundle\"\n"
    "launcher_bundle_end: .byte 0\n"
    "launcher_code: .incbin \"code\"\n"
    "launcher_code_end: .byte 0\n"
    "launcher_addon: .incbin \"addon\"\n"
    "launcher_addon_end: .byte 0\n"
    ".previous\n");
extern "C" const char launcher_boot[], launcher_boot_end[];
extern "C" const char launcher_bundle[], launcher_bundle_end[];
extern "C" const char launcher_code[], launcher_code_end[];
extern "C" const char launcher_addon[], launcher_addon_end[];

namespace {

constexpr char kNode[] = PROXYVPN_NODE;

/// What passes from the caller, each because src/ reads it, as text and never as code to load.
/// PROXYVPN_LIBNFTABLES, for one, names a library and must not be here.
constexpr const char* kPassed[] = {
    "HOME",  // whose configuration
    "LOGNAME",
    "USER",
    "TERM",  // how to print
    "NO_COLOR",
    "XDG_CONFIG_HOME",  // where configuration and state are
    "XDG_RUNTIME_DIR",
    "NOTIFY_SOCKET",   // of the service manager
    "SSH_CONNECTION",  // compared with the kernel's own list
    "http_proxy",      // for a hint
    "https_proxy",
    "HTTPS_PROXY",
    "PROXYVPN_PROXY",
    "PROXYVPN_STATE_DIR",
    "PROXYVPN_FIREWALL",  // one of three names
};

/// Set by us: no place that a user could write to, no OpenSSL provider or engine.
constexpr char kPath[] = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
constexpr char kNoOpensslConfig[] = "OPENSSL_CONF=/dev/null";

/// Before the script's name. No option of V8's is among them: with any, node's own code cache and
/// ours are those of another V8, and it compiles both anew.
constexpr const char* kNodeOptions[] = {
    "--no-global-search-paths",
    "--preserve-symlinks",
    "--preserve-symlinks-main",
};

constexpr int kFailed = 1;
constexpr int kNotPermitted = 3;  // both as src/errors.ts

constexpr uint32_t kNetAdminBit = 1u << CAP_NET_ADMIN;
static_assert(CAP_NET_ADMIN < 32, "else it is in the second word");

[[noreturn]] void fail(int exit_code, const char* code, const char* message, const char* subject,
                       const char* hint) {
  fprintf(stderr, "error: %s: %s%s\n", code, message, subject);
  if (hint) fprintf(stderr, "hint: %s\n", hint);
  _exit(exit_code);
}

[[noreturn]] void fail_errno(const char* syscall) {
  const char* why = strerrordesc_np(errno);
  fprintf(stderr, "error: E_LAUNCHER_SYSTEM: %s: %s\n", syscall, why ? why : "unknown error");
  _exit(kFailed);
}

// ---------------------------------------------------------------- what is inherited

/// A file that node opens must never become its standard output.
void open_standard_descriptors() {
  for (int fd : {0, 1, 2}) {
    if (fcntl(fd, F_GETFD) >= 0) continue;
    if (open("/dev/null", O_RDWR) != fd) _exit(kFailed);
  }
}

void close_other_descriptors() {
  if (syscall(SYS_close_range, 3u, ~0u, 0u) == 0) return;
  // Linux < 5.9. The hard limit may have been lowered below what is open, but not below 2^20.
  for (int fd = 3; fd < 1 << 20; fd++) close(fd);
}

void reset_signals() {
  for (int signal_number = 1; signal_number < NSIG; signal_number++) signal(signal_number, SIG_DFL);
  // Ignoring it also discards one that is pending.
  if (signal(SIGUSR1, SIG_IGN) == SIG_ERR) fail_errno("signal");
  sigset_t none;
  sigemptyset(&none);
  if (sigprocmask(SIG_SETMASK, &none, nullptr) != 0) fail_errno("sigprocmask");
}

/// The memory holds the proxy's password.
void forbid_core_dumps() {
  const rlimit none{0, 0};
  if (setrlimit(RLIMIT_CORE, &none) != 0) fail_errno("setrlimit");
}

// ---------------------------------------------------------------- files that only root changes

/// In a user namespace of his own the caller is root, holds every capability, and sees the files of
/// the outer root as those of the overflow uid, user_namespaces(7).
bool is_root_of_own_namespace() {
  if (geteuid() != 0) return false;
  unsigned inside = 0, outside = 0, count = 0;
  FILE* map = fopen("/proc/self/uid_map", "re");
  bool is_read = map && fscanf(map, "%u %u %u", &inside, &outside, &count) == 3;
  if (map) fclose(map);
  return is_read && !(inside == 0 && outside == 0 && count == ~0u);
}

bool is_only_roots(const struct stat& file) {
  constexpr uid_t kOverflowUid = 65534;  // DEFAULT_OVERFLOWUID, include/linux/highuid.h
  bool is_owner = file.st_uid == 0 || (file.st_uid == kOverflowUid && is_root_of_own_namespace());
  return is_owner && (file.st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

/// Whoever can write to a directory of the path, or mount over it, chooses the program.
void check_node() {
  constexpr char kHint[] =
      "install again with node in a place of root's: sudo scripts/install.sh --bundle-node";
  struct stat file {};
  char path[sizeof kNode];
  for (size_t length = 1; length <= sizeof kNode; length++) {
    bool is_end = length == sizeof kNode - 1;
    if (length > 1 && !is_end && kNode[length] != '/') continue;
    memcpy(path, kNode, length);
    path[length] = 0;
    if (lstat(path, &file) != 0)
      fail(kFailed, "E_LAUNCHER_NODE", "cannot find node at ", path, kHint);
    if (S_ISLNK(file.st_mode))
      fail(kNotPermitted, "E_LAUNCHER_NODE", "a symbolic link leads to node: ", path, kHint);
    if (!is_only_roots(file))
      fail(kNotPermitted, "E_LAUNCHER_NODE", "others than root can change node: see ", path, kHint);
    if (is_end) break;
  }
  if (!S_ISREG(file.st_mode)) fail(kFailed, "E_LAUNCHER_NODE", "not a file: ", kNode, kHint);
  // A file system of a user's own, as FUSE, may claim any owner; it is never mounted without
  // nosuid.
  struct statvfs system {};
  if (statvfs(kNode, &system) != 0) fail_errno("statvfs");
  if (geteuid() != 0 && (system.f_flag & ST_NOSUID) != 0)
    fail(kNotPermitted, "E_LAUNCHER_NODE", "node is on a file system mounted nosuid: ", kNode,
         kHint);
}

// ---------------------------------------------------------------- the capability

struct Capabilities {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3]{};
};

bool holds_net_admin() {
  Capabilities now;
  if (syscall(SYS_capget, &now.header, now.data) != 0) fail_errno("capget");
  return (now.data[0].permitted & kNetAdminBit) != 0;
}

/// Why there is no capability, for a hint: see src/app/capability.ts.
const char* why_unprivileged() {
  if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1) return "no-new-privs";
  struct statvfs system {};
  if (statvfs("/proc/self/exe", &system) == 0 && (system.f_flag & ST_NOSUID) != 0) return "nosuid";
  if (prctl(PR_CAPBSET_READ, CAP_NET_ADMIN, 0, 0, 0) == 0) return "bounding-set";
  if (getxattr("/proc/self/exe", "security.capability", nullptr, 0) < 0)
    return "no-file-capability";
  return "unknown";
}

/// Nothing of this could stop a user who has changed the file; it keeps an honest one from a set-up
/// in which he, and every program of his, could.
void check_own_file() {
  struct stat file {};
  if (stat("/proc/self/exe", &file) != 0) fail_errno("stat /proc/self/exe");
  if (is_only_roots(file)) return;
  fail(kNotPermitted, "E_LAUNCHER_FILE",
       "this file has a capability, and others than root can write to it", "",
       "install it with: sudo scripts/install.sh");
}

/// The capability, if there is one, in every set that exec passes on, and no other in any.
void keep_only_net_admin(bool is_held) {
  Capabilities wanted;
  uint32_t bit = is_held ? kNetAdminBit : 0;
  wanted.data[0] = {.effective = bit, .permitted = bit, .inheritable = bit};
  if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0) fail_errno("prctl ambient");
  if (syscall(SYS_capset, &wanted.header, wanted.data) != 0) fail_errno("capset");
  if (!is_held) return;
  if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_ADMIN, 0, 0) != 0)
    fail_errno("prctl ambient");
}

// ---------------------------------------------------------------- SIGUSR1

#if defined(__x86_64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_X86_64;
constexpr uint32_t kFirstForeignCall = 0x40000000;  // __X32_SYSCALL_BIT
#elif defined(__aarch64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_AARCH64;
constexpr uint32_t kFirstForeignCall = ~0u;
#else
#error "the filter for SIGUSR1 knows x86-64 and aarch64 only"
#endif

constexpr uint32_t low_word(size_t offset) {
  static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__);
  return static_cast<uint32_t>(offset);
}

/// rt_sigaction(SIGUSR1, something, ...) succeeds and does nothing: node checks the result. Other
/// ABIs, which number their calls otherwise, have no calls at all. Inherited by every child.
void pin_sigusr1() {
  constexpr uint32_t kSignal = low_word(offsetof(seccomp_data, args[0]));
  constexpr uint32_t kAction = low_word(offsetof(seccomp_data, args[1]));
  sock_filter filter[] = {
      /* 0*/ BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)),
      /* 1*/ BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kArchitecture, 0, 11),
      /* 2*/ BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      /* 3*/ BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, kFirstForeignCall, 9, 0),
      /* 4*/ BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_rt_sigaction, 0, 6),
      /* 5*/ BPF_STMT(BPF_LD | BPF_W | BPF_ABS, kSignal),
      /* 6*/ BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SIGUSR1, 0, 4),
      /* 7*/ BPF_STMT(BPF_LD | BPF_W | BPF_ABS, kAction),
      /* 8*/ BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 3),
      /* 9*/ BPF_STMT(BPF_LD | BPF_W | BPF_ABS, kAction + 4),
      /*10*/ BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1),
      /*11*/ BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
      /*12*/ BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 0),
      /*13*/ BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
  };
  sock_fprog program{sizeof filter / sizeof *filter, filter};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) fail_errno("prctl no_new_privs");
  // Without the flag, Linux < 5.16 slows the whole process by its Spectre v4 mitigation.
  if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &program) != 0)
    fail_errno("seccomp");
}

// ---------------------------------------------------------------- what node gets

/// A file in memory that nobody can change any more. Node marks the low descriptors close-on-exec
/// when it starts, so that its children do not have them.
int sealed_copy(const char* name, const char* begin, const char* end) {
  constexpr unsigned kNoExecSeal = 8;  // MFD_NOEXEC_SEAL, Linux 6.3; vm.memfd_noexec=2 demands it
  int fd = memfd_create(name, MFD_ALLOW_SEALING | kNoExecSeal);
  if (fd < 0 && errno == EINVAL) fd = memfd_create(name, MFD_ALLOW_SEALING);
  if (fd < 0) fail_errno("memfd_create");
  for (const char* at = begin; at < end;) {
    ssize_t written = write(fd, at, static_cast<size_t>(end - at));
    if (written < 0) fail_errno("write to memfd");
    at += written;
  }
  if (fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) != 0)
    fail_errno("seal memfd");
  return fd;
}

/// `prefix` and the path of the descriptor; lives until exec.
char* path_of(const char* prefix, int fd) {
  char* text = nullptr;
  if (asprintf(&text, "%s/proc/self/fd/%d", prefix, fd) < 0) fail_errno("asprintf");
  return text;
}

char* own_path_variable() {
  constexpr std::string_view kName = "PROXYVPN_LAUNCHER=";
  static char variable[kName.size() + 4096];
  kName.copy(variable, kName.size());
  ssize_t length =
      readlink("/proc/self/exe", variable + kName.size(), sizeof variable - kName.size() - 1);
  if (length < 0) fail_errno("readlink /proc/self/exe");
  return variable;
}

bool is_passed(std::string_view entry) {
  for (std::string_view name : kPassed)
    if (entry.starts_with(name) && entry.substr(name.size()).starts_with('=')) return true;
  return false;
}

/// Descriptors of what node is given.
struct Program {
  int boot, bundle, code, addon;
};

char** environment(char** inherited, const Program& program, const char* why_not_held) {
  static char* variables[sizeof kPassed / sizeof *kPassed + 8];
  size_t count = 0;
  for (; *inherited && count < sizeof kPassed / sizeof *kPassed; inherited++)
    if (is_passed(*inherited)) variables[count++] = *inherited;
  variables[count++] = const_cast<char*>(kPath);
  variables[count++] = const_cast<char*>(kNoOpensslConfig);
  variables[count++] = path_of("PROXYVPN_BUNDLE=", program.bundle);
  variables[count++] = path_of("PROXYVPN_CODE=", program.code);
  variables[count++] = path_of("PROXYVPN_ADDON=", program.addon);
  variables[count++] = own_path_variable();
  if (why_not_held && asprintf(&variables[count++], "PROXYVPN_UNPRIVILEGED=%s", why_not_held) < 0)
    fail_errno("asprintf");
  return variables;
}

char** node_arguments(int argc, char** argv, const Program& program) {
  constexpr size_t kOwn = sizeof kNodeOptions / sizeof *kNodeOptions + 2;
  size_t given = argc > 1 ? static_cast<size_t>(argc) - 1 : 0;
  auto** arguments = static_cast<char**>(calloc(kOwn + given + 1, sizeof(char*)));
  if (!arguments) fail_errno("calloc");
  size_t count = 0;
  arguments[count++] = const_cast<char*>("proxyvpn");
  for (const char* option : kNodeOptions) arguments[count++] = const_cast<char*>(option);
  arguments[count++] = path_of("", program.boot);
  for (size_t i = 0; i < given; i++) arguments[count++] = argv[i + 1];
  return arguments;
}

}  // namespace

int main(int argc, char** argv, char** inherited) {
  open_standard_descriptors();
  close_other_descriptors();
  if (getuid() != geteuid() || getgid() != getegid())
    fail(kNotPermitted, "E_LAUNCHER_SETID", "this file must not be set-user-ID or set-group-ID", "",
         "it needs the file capability cap_net_admin+p alone");
  reset_signals();
  forbid_core_dumps();
  check_node();
  bool is_root = geteuid() == 0;
  bool is_held = holds_net_admin();
  const char* why_not_held = is_held ? nullptr : why_unprivileged();
  if (is_held && !is_root) check_own_file();
  Program program{
      .boot = sealed_copy("proxyvpn-boot.cjs", launcher_boot, launcher_boot_end),
      .bundle = sealed_copy("proxyvpn.cjs", launcher_bundle, launcher_bundle_end),
      .code = sealed_copy("proxyvpn-code", launcher_code, launcher_code_end),
      .addon = sealed_copy("proxyvpn.node", launcher_addon, launcher_addon_end),
  };
  if (!is_root) keep_only_net_admin(is_held);
  pin_sigusr1();
  execve(kNode, node_arguments(argc, argv, program), environment(inherited, program, why_not_held));
  fail_errno(kNode);
}
