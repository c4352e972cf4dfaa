"""What an unprivileged user can try on a process of his own uid; prints one JSON object, attempt to outcome.

attach PID                 everything that ptrace access guards
race DEADLINE_MS ARGV...   starts ARGV and tries to attach from its first instant until the deadline
traced ARGV...             starts ARGV as its tracer; tells which capability it got
alter FILE HOW             changes the last byte of FILE by write or through a shared mapping
bare FILE                  runs FILE without arguments, not even a name, and with an odd environment; prints nothing
signal                     what rt_sigaction(SIGUSR1) does here, by every ABI the kernel may know
"""
import ctypes
import errno
import json
import mmap
import os
import platform
import signal
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.syscall.restype = ctypes.c_long
PTRACE_TRACEME, PTRACE_SEIZE, PTRACE_DETACH = 0, 0x4206, 17
PIDFD_OPEN, PIDFD_GETFD = 434, 438
PROCESS_VM_READV = {"x86_64": 310, "aarch64": 270}[platform.machine()]


def outcome(attempt):
    try:
        attempt()
        return "done"
    except OSError as error:
        return errno.errorcode[error.errno]


def checked(result):
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def seize(pid):
    checked(libc.ptrace(PTRACE_SEIZE, pid, None, None))
    libc.ptrace(PTRACE_DETACH, pid, None, None)


def take_descriptor(pid):
    checked(libc.syscall(PIDFD_GETFD, checked(libc.syscall(PIDFD_OPEN, pid, 0)), 0, 0))


class IoVector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def read_memory(pid):
    """Of an address that is mapped in any position-dependent or -independent node: our own stack's will not do."""
    buffer = ctypes.create_string_buffer(1)
    local = IoVector(ctypes.cast(buffer, ctypes.c_void_p), 1)
    remote = IoVector(1, 1)
    checked(libc.syscall(PROCESS_VM_READV, pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0))


def read(path):
    with open(path, "rb") as file:
        file.read()


def attach(pid):
    return {
        "ptrace": outcome(lambda: seize(pid)),
        "pidfd_getfd": outcome(lambda: take_descriptor(pid)),
        "process_vm_readv": outcome(lambda: read_memory(pid)),
        "mem": outcome(lambda: os.close(os.open(f"/proc/{pid}/mem", os.O_RDWR))),
        "environ": outcome(lambda: read(f"/proc/{pid}/environ")),
        "maps": outcome(lambda: read(f"/proc/{pid}/maps")),
        "fd": outcome(lambda: os.readlink(f"/proc/{pid}/fd/0")),
        "list of fd": outcome(lambda: os.listdir(f"/proc/{pid}/fd")),
        "cwd": outcome(lambda: os.readlink(f"/proc/{pid}/cwd")),
        "exe": outcome(lambda: os.readlink(f"/proc/{pid}/exe")),
    }


def holds_capability(pid):
    with open(f"/proc/{pid}/status", encoding="latin1") as status:
        return "CapPrm:\t0000000000001000" in status.read()


def race(deadline_ms, argv):
    """An attachment counts when the process holds the capability then; before exec it is still our own."""
    pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=[(os.POSIX_SPAWN_OPEN, 1, "/dev/null", 1, 0)])
    deadline = time.monotonic() + deadline_ms / 1000
    tries = held = taken = 0
    while time.monotonic() < deadline:
        tries += 1
        held += holds_capability(pid)
        try:
            memory = os.open(f"/proc/{pid}/mem", os.O_RDWR)
        except OSError:
            continue
        taken += holds_capability(pid)
        os.close(memory)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return {"tries": str(tries), "held": str(held), "taken": str(taken)}


def traced(argv):
    pid = os.fork()
    if pid == 0:
        libc.ptrace(PTRACE_TRACEME, 0, None, None)
        os.execv(argv[0], argv)
    # It stops in execve, before its first instruction.
    os.waitpid(pid, 0)
    with open(f"/proc/{pid}/status", encoding="latin1") as status:
        permitted = next(line for line in status if line.startswith("CapPrm:")).split()[1]
    name = os.path.basename(os.readlink(f"/proc/{pid}/exe"))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return {"program": name, "CapPrm": permitted}


def alter(path, how):
    def by_write():
        with open(path, "r+b") as file:
            file.seek(-1, os.SEEK_END)
            byte = file.read(1)
            file.seek(-1, os.SEEK_END)
            file.write(bytes([byte[0] ^ 1]))

    def by_mapping():
        with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
            memory[-1] ^= 1
            memory.flush()

    return {"altered": outcome({"write": by_write, "mapping": by_mapping}[how])}


def bare(path):
    """Entries without a name, without "=", twice, and more than anybody would look at."""
    entries = [b"", b"=", b"HOME", b"HOME=", b"=HOME", b"PROXYVPN_PROXY"] + [b"A%d=%s" % (i, b"x" * 900) for i in range(1000)]
    entries += [b"HOME=/%d" % i for i in range(1000)]
    environment = (ctypes.c_char_p * (len(entries) + 1))(*entries, None)
    libc.execve(os.fsencode(path), (ctypes.c_char_p * 1)(None), environment)
    raise OSError(ctypes.get_errno(), "execve")


def is_ignored():
    with open("/proc/self/status", encoding="latin1") as status:
        ignored = next(line for line in status if line.startswith("SigIgn:"))
    return bool(int(ignored.split()[1], 16) >> (signal.SIGUSR1 - 1) & 1)


def pinned_signal():
    results = {"before": "ignored" if is_ignored() else "not ignored"}

    def handle():
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)

    results["sigaction"] = outcome(handle)
    results["after"] = "ignored" if is_ignored() else "not ignored"
    if platform.machine() == "x86_64":
        # rt_sigaction of x32 is 512 with the bit 0x40000000; without x32 in the kernel it is ENOSYS anyway.
        results["x32"] = outcome(lambda: checked(libc.syscall(0x40000000 + 512, signal.SIGUSR1, 0, 0, 8)))
        results["i386"] = i386_getpid()
    return results


def i386_getpid():
    """int 0x80 with eax = 20, getpid of i386: its result, or the errno that came instead."""
    code = bytes([0x53, 0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0x5B, 0xC3])  # push rbx; mov eax,20; int 0x80; pop rbx; ret
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    result = ctypes.CFUNCTYPE(ctypes.c_int32)(address)()
    return "done" if result == os.getpid() else errno.errorcode.get(-result, str(result))


def main(command, *args):
    if command == "attach":
        return attach(int(args[0]))
    if command == "race":
        return race(int(args[0]), list(args[1:]))
    if command == "traced":
        return traced(list(args))
    if command == "alter":
        return alter(*args)
    if command == "bare":
        return bare(*args)
    if command == "signal":
        return pinned_signal()
    raise SystemExit(__doc__)


print(json.dumps(main(*sys.argv[1:])))
