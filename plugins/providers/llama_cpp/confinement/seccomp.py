"""The engine's system-call filter (see seccomp(2)): allows what it needs, refuses the rest.

Files open for reading only, new threads but no processes start, signals reach the engine itself
only, and no new socket can be made. Refused calls fail with EPERM; clone3 and openat2, whose
flags a filter can't see, with ENOSYS, so that the C library falls back.
"""

import ctypes
import errno
import os
import platform

from plugins._shared import linux
from plugins._shared.seccomp.bpf import (
    ANY_BIT,
    EQUAL,
    Block,
    allow,
    assemble,
    fail_with,
    is_supported,
    load_argument,
    reject_foreign_abi,
    return_for_each,
    run_if,
)
from plugins._shared.seccomp.numbers import syscall_numbers

_SET_MODE_FILTER, _ALL_THREADS = 1, 1
_INSTRUCTION_BYTES = 8
_CLONE_THREAD = 0x00010000
# O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_APPEND, O_TMPFILE without O_DIRECTORY
_WRITE_FLAGS = 0x1 | 0x2 | 0x40 | 0x200 | 0x400 | 0x400000
_ALLOWED_IOCTLS = (0x5421, 0x5451, 0x541B, 0x5401)  # FIONBIO, FIOCLEX, FIONREAD, TCGETS
_ALLOWED_PRCTLS = (15, 16, 0x53564D41)  # PR_SET_NAME, PR_GET_NAME, PR_SET_VMA

# Calls that an engine may make with any argument.
ALLOWED = (
    # descriptors that are open already, or opened for reading
    "read", "write", "pread64", "readv", "writev", "close", "fstat", "lseek", "dup", "dup3",
    "fcntl", "fadvise64", "pipe", "pipe2", "eventfd2",
    # metadata of files
    "stat", "lstat", "newfstatat", "statx", "access", "faccessat", "faccessat2", "readlink",
    "readlinkat", "getdents64", "getcwd", "statfs", "fstatfs",
    # the connection to the server
    "recvfrom", "recvmsg", "sendto", "sendmsg", "shutdown", "getsockname", "getpeername",
    "getsockopt", "poll", "ppoll", "select", "pselect6", "epoll_create1", "epoll_ctl",
    "epoll_wait", "epoll_pwait",
    # memory
    "mmap", "mprotect", "munmap", "brk", "mremap", "mincore", "madvise", "mlock", "munlock",
    "get_mempolicy", "membarrier",
    # threads
    "futex", "set_robust_list", "rseq", "set_tid_address", "sched_yield", "sched_getaffinity",
    "sched_setaffinity", "sched_getparam", "sched_getscheduler", "sched_get_priority_max",
    "sched_get_priority_min", "exit", "exit_group", "restart_syscall", "arch_prctl",
    # signals to itself
    "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack",
    # time, identity, resources
    "clock_gettime", "clock_getres", "clock_nanosleep", "nanosleep", "gettimeofday", "time",
    "times", "getrusage", "sysinfo", "uname", "getcpu", "getpid", "gettid", "getppid", "getuid",
    "geteuid", "getgid", "getegid", "getrandom", "getrlimit",
)  # fmt: skip

# Calls that no GPU driver needs.
DENIED_WITH_GPU = (
    "socket", "socketpair", "connect", "bind", "listen", "accept", "accept4", "execve",
    "execveat", "fork", "vfork", "ptrace", "process_vm_readv", "process_vm_writev",
    "pidfd_getfd", "mount", "umount2", "pivot_root", "chroot", "unshare", "setns",
    "open_by_handle_at", "io_uring_setup", "bpf", "perf_event_open", "userfaultfd", "keyctl",
    "add_key", "request_key", "init_module", "finit_module", "kexec_load", "kexec_file_load",
    "reboot",
)  # fmt: skip


class _Program(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def install_filter(*, gpu: bool) -> None:
    """Put all threads of this process under the filter for good. Raises OSError.

    Requires PR_SET_NO_NEW_PRIVS. The calls of a GPU driver are not known in advance, so with
    a GPU only the calls in DENIED_WITH_GPU are refused.
    """
    machine = platform.machine()
    if not is_supported(machine):
        raise OSError(errno.ENOSYS, f"no table of system calls for {machine}")
    instructions = build_filter(machine, os.getpid(), gpu=gpu)
    program = _Program(len(instructions) // _INSTRUCTION_BYTES, instructions)
    (number,) = syscall_numbers(["seccomp"], machine).values()
    # The result is the id of a thread that could not be put under the filter, if one could not.
    if linux.call("syscall", number, _SET_MODE_FILTER, _ALL_THREADS, ctypes.byref(program)):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def build_filter(machine: str, pid: int, *, gpu: bool) -> bytes:
    """The filter for the process `pid` on this architecture."""
    return assemble(_deny_list(machine) if gpu else _allow_list(machine, pid))


def _allow_list(machine: str, pid: int) -> Block:
    block = reject_foreign_abi(machine)
    block += return_for_each(syscall_numbers(ALLOWED, machine).values(), allow())
    rules = _argument_rules(pid)
    for name, number in syscall_numbers(rules, machine).items():
        block += run_if(EQUAL, number, rules[name])
    return [*block, fail_with(errno.EPERM)]


def _argument_rules(pid: int) -> dict[str, Block]:
    read_only = [*run_if(ANY_BIT, _WRITE_FLAGS, [fail_with(errno.EACCES)]), allow()]
    return {
        "openat": [load_argument(2), *read_only],
        "open": [load_argument(1), *read_only],
        "clone3": [fail_with(errno.ENOSYS)],
        "openat2": [fail_with(errno.ENOSYS)],
        "clone": _threads_only(),
        "ioctl": _allow_values(1, _ALLOWED_IOCTLS),
        "prctl": _allow_values(0, _ALLOWED_PRCTLS),
        # Limits can be read but not set: the pointer to new ones must be null.
        "prlimit64": _allow_values(2, (0,)),
        "kill": _allow_values(0, (pid,)),
        "tgkill": _allow_values(0, (pid,)),
    }


def _deny_list(machine: str) -> Block:
    numbers = syscall_numbers(("clone3", "clone"), machine)
    block = reject_foreign_abi(machine)
    denied = syscall_numbers(DENIED_WITH_GPU, machine).values()
    block += return_for_each(denied, fail_with(errno.EPERM))
    block += run_if(EQUAL, numbers["clone3"], [fail_with(errno.ENOSYS)])
    block += run_if(EQUAL, numbers["clone"], _threads_only())
    return [*block, allow()]


def _threads_only() -> Block:
    return [
        load_argument(0), *run_if(ANY_BIT, _CLONE_THREAD, [allow()]), fail_with(errno.EPERM)
    ]  # fmt: skip


def _allow_values(index: int, values: tuple[int, ...]) -> Block:
    return [load_argument(index), *return_for_each(values, allow()), fail_with(errno.EPERM)]
