"""Numbers of system calls by name and architecture, for every filter of the product.

From the kernel's own tables (arch/x86/entry/syscalls/syscall_64.tbl and
include/uapi/asm-generic/unistd.h).
"""

from collections.abc import Iterable

# The highest number in both tables as of Linux 6.18; later calls are unknown.
HIGHEST = 469
# Calls from this number on have the same number on every architecture. Older ones have a number
# per architecture, of which these are the highest; there is none in between.
FIRST_COMMON = 424
HIGHEST_OF_ARCHITECTURE = {"x86_64": 336, "aarch64": 294}

_COLUMN = {"x86_64": 0, "aarch64": 1}

# (x86_64, aarch64); None: the architecture lacks the call.
NUMBERS: dict[str, tuple[int | None, int | None]] = {
    "accept": (43, 202), "accept4": (288, 242), "access": (21, None), "acct": (163, 89),
    "add_key": (248, 217), "adjtimex": (159, 171), "arch_prctl": (158, None), "bind": (49, 200),
    "bpf": (321, 280), "brk": (12, 214), "cachestat": (451, 451), "chroot": (161, 51),
    "clock_adjtime": (305, 266), "clock_getres": (229, 114), "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115), "clock_settime": (227, 112), "clone": (56, 220),
    "clone3": (435, 435), "close": (3, 57), "connect": (42, 203), "delete_module": (176, 106),
    "dup": (32, 23), "dup3": (292, 24), "epoll_create1": (291, 20), "epoll_ctl": (233, 21),
    "epoll_pwait": (281, 22), "epoll_wait": (232, None), "eventfd2": (290, 19),
    "execve": (59, 221), "execveat": (322, 281), "exit": (60, 93), "exit_group": (231, 94),
    "faccessat": (269, 48), "faccessat2": (439, 439), "fadvise64": (221, 223),
    "fanotify_init": (300, 262), "fcntl": (72, 25), "fdatasync": (75, 83),
    "finit_module": (313, 273), "fork": (57, None), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fsopen": (430, 430), "fspick": (433, 433), "fstat": (5, 80), "fstatfs": (138, 44),
    "fsync": (74, 82), "futex": (202, 98), "get_mempolicy": (239, 236), "getcpu": (309, 168),
    "getcwd": (79, 17), "getdents64": (217, 61), "getegid": (108, 177), "geteuid": (107, 175),
    "getgid": (104, 176), "getpeername": (52, 205), "getpid": (39, 172), "getppid": (110, 173),
    "getrandom": (318, 278), "getrlimit": (97, 163), "getrusage": (98, 165),
    "getsockname": (51, 204), "getsockopt": (55, 209), "gettid": (186, 178),
    "gettimeofday": (96, 169), "getuid": (102, 174), "init_module": (175, 105),
    "inotify_add_watch": (254, 27), "io_setup": (206, 0), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "io_uring_setup": (425, 425), "ioctl": (16, 29),
    "ioperm": (173, None), "iopl": (172, None), "kcmp": (312, 272), "kexec_file_load": (320, 294),
    "kexec_load": (246, 104), "keyctl": (250, 219), "kill": (62, 129), "listen": (50, 201),
    "listmount": (458, 458), "lookup_dcookie": (212, 18), "lseek": (8, 62),
    "lsm_set_self_attr": (460, 460), "lstat": (6, None), "madvise": (28, 233), "mbind": (237, 235),
    "membarrier": (324, 283), "memfd_create": (319, 279), "memfd_secret": (447, 447),
    "migrate_pages": (256, 238), "mincore": (27, 232), "mlock": (149, 228), "mmap": (9, 222),
    "modify_ldt": (154, None), "mount": (165, 40), "mount_setattr": (442, 442),
    "move_mount": (429, 429), "move_pages": (279, 239), "mprotect": (10, 226), "mremap": (25, 216),
    "msgget": (68, 186), "msync": (26, 227), "munlock": (150, 229), "munmap": (11, 215),
    "name_to_handle_at": (303, 264), "nanosleep": (35, 101), "newfstatat": (262, 79),
    "nfsservctl": (180, 42), "open": (2, None), "open_by_handle_at": (304, 265),
    "open_tree": (428, 428), "open_tree_attr": (467, 467), "openat": (257, 56),
    "openat2": (437, 437), "perf_event_open": (298, 241), "personality": (135, 92),
    "pidfd_getfd": (438, 438), "pipe": (22, None), "pipe2": (293, 59), "pivot_root": (155, 41),
    "poll": (7, None), "ppoll": (271, 73), "prctl": (157, 167), "pread64": (17, 67),
    "prlimit64": (302, 261), "process_madvise": (440, 440), "process_mrelease": (448, 448),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "pselect6": (270, 72),
    "ptrace": (101, 117), "quotactl": (179, 60), "quotactl_fd": (443, 443), "read": (0, 63),
    "readlink": (89, None), "readlinkat": (267, 78), "readv": (19, 65), "reboot": (169, 142),
    "recvfrom": (45, 207), "recvmsg": (47, 212), "remap_file_pages": (216, 234),
    "request_key": (249, 218), "restart_syscall": (219, 128), "rseq": (334, 293),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "sched_get_priority_max": (146, 125), "sched_get_priority_min": (147, 126),
    "sched_getaffinity": (204, 123), "sched_getparam": (143, 121),
    "sched_getscheduler": (145, 120), "sched_setaffinity": (203, 122), "sched_yield": (24, 124),
    "seccomp": (317, 277), "select": (23, None), "semget": (64, 190), "sendmmsg": (307, 269),
    "sendmsg": (46, 211), "sendto": (44, 206), "set_mempolicy": (238, 237),
    "set_mempolicy_home_node": (450, 450), "set_robust_list": (273, 99),
    "set_tid_address": (218, 96), "setdomainname": (171, 162), "sethostname": (170, 161),
    "setns": (308, 268), "setrlimit": (160, 164), "setsockopt": (54, 208),
    "settimeofday": (164, 170), "shmget": (29, 194), "shutdown": (48, 210),
    "sigaltstack": (131, 132), "socket": (41, 198), "socketpair": (53, 199), "stat": (4, None),
    "statfs": (137, 43), "statmount": (457, 457), "statx": (332, 291), "swapoff": (168, 225),
    "swapon": (167, 224), "sync": (162, 81), "sync_file_range": (277, 84), "syncfs": (306, 267),
    "sysfs": (139, None), "sysinfo": (99, 179), "syslog": (103, 116), "tgkill": (234, 131),
    "time": (201, None), "times": (100, 153), "umount2": (166, 39), "uname": (63, 160),
    "unshare": (272, 97), "uselib": (134, None), "userfaultfd": (323, 282), "ustat": (136, None),
    "vfork": (58, None), "vhangup": (153, 58), "write": (1, 64), "writev": (20, 66),
}  # fmt: skip


def syscall_numbers(names: Iterable[str], machine: str) -> dict[str, int]:
    """Numbers by name, in the order of `names`, without calls that the architecture lacks.

    `machine` is "x86_64" or "aarch64".
    """
    column = _COLUMN[machine]
    rows = ((name, NUMBERS[name][column]) for name in names)
    return {name: number for name, number in rows if number is not None}
