"""Started by runner for each program: takes away what the program does not need, then becomes it (exec, no shell).

argv: process id of the parent, seconds of CPU, octets of memory (0 = any), octets of a file, processes beyond those that
our user has (root has no such limit), "--", the program and its arguments. Standard library only, run with -I -S. What
failure means for the mail: exit 127 is "not scanned", or put off.
"""

import ctypes
import os
import resource
import signal
import sys

_DEATH_SIGNAL, _NO_NEW_PRIVS = 1, 38
#: The exit code, and how its line begins, where the program could not become this process.
UNABLE, CANNOT = 127, "cannot run {}: "


def main(parent: int, cpu: int, memory: int, file: int, processes: int, argv: list[str]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(UNABLE)
    limits = {"RLIMIT_CPU": cpu, "RLIMIT_FSIZE": file, "RLIMIT_CORE": 0, "RLIMIT_NOFILE": 256}
    limits["RLIMIT_NPROC"] = running() + processes
    limits |= {"RLIMIT_AS": memory} if memory else {}
    for name, value in limits.items():
        number = getattr(resource, name)
        most = resource.getrlimit(number)[1]
        value = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(number, (value, value))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execv(argv[0], argv)  # noqa: S606 - that is what it is for; the words are the configuration's
    except OSError as error:
        sys.stderr.write(f"{CANNOT.format(argv[0])}{error.strerror}\n")
        sys.stderr.flush()
        os._exit(UNABLE)


def running() -> int:
    """Processes of our user, each thread counted, as the limit counts them."""
    count = 0
    for entry in os.scandir("/proc"):
        try:
            if entry.name.isdecimal() and entry.stat().st_uid == os.getuid():
                count += sum(1 for _ in os.scandir(f"{entry.path}/task"))
        except OSError:  # it has ended
            continue
    return count


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:6]]
    main(numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], sys.argv[7:])
