"""The system calls that an engine needs, by number, for x86_64 and aarch64.

From the kernel's own tables (arch/x86/entry/syscalls/syscall_64.tbl and
include/uapi/asm-generic/unistd.h). None: the architecture has no such call.
"""

_Numbers = tuple[int | None, int | None]

# name: (x86_64, aarch64)
_FREE: dict[str, _Numbers] = {
    # descriptors that are open already, or opened for reading
    "read": (0, 63), "write": (1, 64), "pread64": (17, 67), "readv": (19, 65),
    "writev": (20, 66), "close": (3, 57), "fstat": (5, 80), "lseek": (8, 62),
    "dup": (32, 23), "dup3": (292, 24), "fcntl": (72, 25), "fadvise64": (221, 223),
    "pipe": (22, None), "pipe2": (293, 59), "eventfd2": (290, 19),
    # looking around
    "stat": (4, None), "lstat": (6, None), "newfstatat": (262, 79), "statx": (332, 291),
    "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439),
    "readlink": (89, None), "readlinkat": (267, 78), "getdents64": (217, 61),
    "getcwd": (79, 17), "statfs": (137, 43), "fstatfs": (138, 44),
    # the connection to the server
    "recvfrom": (45, 207), "recvmsg": (47, 212), "sendto": (44, 206), "sendmsg": (46, 211),
    "shutdown": (48, 210), "getsockname": (51, 204), "getpeername": (52, 205),
    "getsockopt": (55, 209), "poll": (7, None), "ppoll": (271, 73), "select": (23, None),
    "pselect6": (270, 72), "epoll_create1": (291, 20), "epoll_ctl": (233, 21),
    "epoll_wait": (232, None), "epoll_pwait": (281, 22),
    # memory
    "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214),
    "mremap": (25, 216), "mincore": (27, 232), "madvise": (28, 233), "mlock": (149, 228),
    "munlock": (150, 229), "get_mempolicy": (239, 236), "membarrier": (324, 283),
    # threads
    "futex": (202, 98), "set_robust_list": (273, 99), "rseq": (334, 293),
    "set_tid_address": (218, 96), "sched_yield": (24, 124), "sched_getaffinity": (204, 123),
    "sched_setaffinity": (203, 122), "sched_getparam": (143, 121),
    "sched_getscheduler": (145, 120), "sched_get_priority_max": (146, 125),
    "sched_get_priority_min": (147, 126), "exit": (60, 93), "exit_group": (231, 94),
    "restart_syscall": (219, 128), "arch_prctl": (158, None),
    # signals to itself
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    # time, and who and where it is
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101), "gettimeofday": (96, 169), "time": (201, None),
    "times": (100, 153), "getrusage": (98, 165), "sysinfo": (99, 179), "uname": (63, 160),
    "getcpu": (309, 168), "getpid": (39, 172), "gettid": (186, 178), "getppid": (110, 173),
    "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177),
    "getrandom": (318, 278), "getrlimit": (97, 163),
}  # fmt: skip

# Calls with rules of their own.
OPEN = {"x86_64": 2}
OPENAT = {"x86_64": 257, "aarch64": 56}
OPENAT2 = {"x86_64": 437, "aarch64": 437}
CLONE = {"x86_64": 56, "aarch64": 220}
CLONE3 = {"x86_64": 435, "aarch64": 435}
IOCTL = {"x86_64": 16, "aarch64": 29}
KILL = {"x86_64": 62, "aarch64": 129}
TGKILL = {"x86_64": 234, "aarch64": 131}
PRCTL = {"x86_64": 157, "aarch64": 167}
PRLIMIT64 = {"x86_64": 302, "aarch64": 261}
SECCOMP = {"x86_64": 317, "aarch64": 277}

# What even the driver of a GPU has no business with.
_NEVER: dict[str, _Numbers] = {
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200),
    "listen": (50, 201), "accept": (43, 202), "accept4": (288, 242), "execve": (59, 221),
    "execveat": (322, 281), "fork": (57, None), "vfork": (58, None), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "pidfd_getfd": (438, 438),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "unshare": (272, 97), "setns": (308, 268), "open_by_handle_at": (304, 265),
    "io_uring_setup": (425, 425), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "init_module": (175, 105), "finit_module": (313, 273),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142),
}  # fmt: skip

_COLUMN = {"x86_64": 0, "aarch64": 1}


def free(machine: str) -> list[int]:
    """Numbers of the calls that an engine may make with any argument."""
    return _numbers(_FREE, machine)


def never(machine: str) -> list[int]:
    """Numbers of the calls that are refused to an engine with a GPU."""
    return _numbers(_NEVER, machine)


def _numbers(table: dict[str, _Numbers], machine: str) -> list[int]:
    column = _COLUMN[machine]
    return [number for row in table.values() if (number := row[column]) is not None]
