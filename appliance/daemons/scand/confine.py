"""What the kernel is asked to take away from processes that read hostile content. No library is needed for it.

Contract: `nursery()` once, after all imports: no network (a namespace of its own), no files (landlock). `child()` in
every child: memory, time, files, processes limited, and only the system calls that reading needs (seccomp; all others
fail with EPERM). What a kernel does not have is left out; `trial()` says what is in force. No new privileges and the
death signal are there in any case. What failure means for the mail: none.
"""

import contextlib
import ctypes
import math
import os
import platform
import resource
import socket
import struct

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
_LANDLOCK_CREATE, _LANDLOCK_RESTRICT = 444, 446
#: Octets of memory beyond the content itself.
MEMORY = 512 * 1024 * 1024
#: Machine: its number for the kernel's audit, its place in _CALLS.
_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
# fmt: off
#: All that reading content in memory and writing an answer needs: numbers on x86_64 and aarch64.
_CALLS = {
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "fstat": (5, 80), "lseek": (8, 62), "mmap": (9, 222),
    "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139), "pread64": (17, 67), "sched_yield": (24, 124), "mremap": (25, 216), "madvise": (28, 233),
    "getpid": (39, 172), "exit": (60, 93), "gettimeofday": (96, 169), "getrusage": (98, 165), "sigaltstack": (131, 132),
    "futex": (202, 98), "restart_syscall": (219, 128), "clock_gettime": (228, 113), "exit_group": (231, 94),
    "newfstatat": (262, 79), "getrandom": (318, 278),
}
# fmt: on
_libc = ctypes.CDLL(None, use_errno=True)


def nursery() -> None:
    """For good, in this process and all it forks."""
    _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if _libc.unshare(CLONE_NEWNET) != 0:
        _libc.unshare(CLONE_NEWUSER | CLONE_NEWNET)
    _landlock()


def _landlock() -> None:
    """No rule at all: no file can be opened, no TCP port used, nobody outside signalled."""
    abi = _libc.syscall(_LANDLOCK_CREATE, None, 0, 1)
    if abi < 1:
        return
    files = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(abi, 16)) - 1
    attributes = struct.pack("=QQQ", files, 3, 3)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    fd = _libc.syscall(_LANDLOCK_CREATE, attributes, len(attributes), 0)
    if fd >= 0:
        _libc.syscall(_LANDLOCK_RESTRICT, fd, 0)
        os.close(fd)


def child(size: int, seconds: float) -> None:
    """For a child that reads `size` octets within `seconds`; nothing may be opened or imported after it."""
    cpu = math.ceil(seconds) + 1
    for limit, value in (
        (resource.RLIMIT_AS, MEMORY + size),
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_NOFILE, 16),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(ValueError, OSError):  # a lower hard limit is there already
            resource.setrlimit(limit, (value, value))
    _seccomp()


def _seccomp() -> None:
    known = _MACHINES.get(platform.machine())
    if known is None:
        return
    arch, column = known
    calls = [numbers[column] for numbers in _CALLS.values()]
    program = [(0x20, 0, 0, 4), (0x15, 1, 0, arch), (0x06, 0, 0, 0x80000000), (0x20, 0, 0, 0)]
    program += [(0x15, len(calls) - index, 0, call) for index, call in enumerate(calls)]
    program += [(0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in program))
    filter_ = struct.pack("@HP", len(program), ctypes.addressof(code))
    _libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filter_, 0, 0)


def _refused(what: str) -> bool:
    """Try it (in a child that is confined)."""
    try:
        if what == "network":
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.connect(("127.0.0.1", 9))
        elif what == "files":
            os.close(os.open("/", os.O_RDONLY))
        else:
            if os.fork() == 0:
                os._exit(0)
            os.wait()
    except OSError:
        return True
    return False


def trial() -> tuple[str, ...]:
    """What a child cannot do, tried by one: of "network", "files", "processes"."""
    asked = ("network", "files", "processes")
    pid = os.fork()
    if pid == 0:
        child(0, 5.0)
        os._exit(sum(1 << index for index, what in enumerate(asked) if _refused(what)))
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return tuple(what for index, what in enumerate(asked) if status >= 0 and status >> index & 1)
