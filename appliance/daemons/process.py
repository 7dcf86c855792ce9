"""What a child does to itself before it serves: user, death with its master, no new privileges, no core.

Contract: after `become` the process cannot get its old privileges back (checked, else OSError and it ends); failure of
any step ends the process before it touched mail.
"""

import ctypes
import os
import resource
import signal
import sys

import msgspec

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
_libc = ctypes.CDLL(None, use_errno=True)


class Identity(msgspec.Struct, frozen=True):
    """Whom a process becomes: its service user and group, nothing else."""

    user: str
    uid: int
    gid: int


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux" and _libc.prctl(option, value, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl({option}, {value}): {os.strerror(error)}")


def drop(identity: Identity) -> None:
    """Become `identity` for good. Raises OSError if that fails or could be undone."""
    os.setgroups([identity.gid])
    os.setresgid(identity.gid, identity.gid, identity.gid)
    os.setresuid(identity.uid, identity.uid, identity.uid)
    if os.getresuid() != (identity.uid,) * 3 or os.getresgid() != (identity.gid,) * 3:
        raise PermissionError(f"user {identity.user}: privileges were not given up")
    if identity.uid != 0:
        _cannot_return(identity)


def _cannot_return(identity: Identity) -> None:
    for change in (os.setuid, os.setgid):
        try:
            change(0)
        except PermissionError:
            continue
        raise PermissionError(f"user {identity.user}: privileges can be taken back")


def become(identity: Identity | None, master: int) -> None:
    """Drop to `identity` (None: stay who we are), lock that in, and die with the process `master`.

    The death signal comes last: the kernel forgets it when the user changes.
    """
    if identity is not None:
        drop(identity)
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    seal(master)


def seal(master: int) -> None:
    """The part of `become` that an exec undoes: no core, not dumpable, death signal."""
    os.umask(0o077)
    sys.dont_write_bytecode = True  # with our umask nobody else could read it
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(PR_SET_DUMPABLE, 0)
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != master:  # it died before we asked
        os._exit(3)


def end_with(parent: int) -> None:
    """Get SIGTERM when the process `parent` ends, however it does; it lasts over an exec."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(3)


def quiet_signals() -> None:
    """The master alone listens to signals; a signal to the whole process group must not cut the children's work."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
