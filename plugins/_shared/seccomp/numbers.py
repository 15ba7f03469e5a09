"""Numbers of the system calls that the filter treats, per architecture.

From the kernel's own tables (arch/x86/entry/syscalls/syscall_64.tbl and
include/uapi/asm-generic/unistd.h). None: the architecture has no such call.
"""

# The highest number that both tables hold as of Linux 6.18; later calls are unknown to us.
HIGHEST = 469
# Numbers from here on are the same on every machine. Below them the tables end here.
SHARED = 424
LAST_OF_ITS_OWN = {"x86_64": 336, "aarch64": 294}

Numbers = dict[str, tuple[int | None, int | None]]  # (x86_64, aarch64)

# Calls with rules of their own.
JUDGED: Numbers = {
    "clone": (56, 220),
    "clone3": (435, 435),
    "fadvise64": (221, 223),
    "fcntl": (72, 25),
    "inotify_add_watch": (254, 27),
    "ioctl": (16, 29),
    "madvise": (28, 233),
    "memfd_create": (319, 279),
    "mmap": (9, 222),
    "msync": (26, 227),
    "personality": (135, 92),
    "prctl": (157, 167),
    "prlimit64": (302, 261),
    "sendmmsg": (307, 269),
    "sendmsg": (46, 211),
    "sendto": (44, 206),
    "setrlimit": (160, 164),
    "setsockopt": (54, 208),
    "socket": (41, 198),
    "socketpair": (53, 199),
}

# What a run writes is on no disk. These would only have the machine's disks wait for others' data.
PASSED_OVER: Numbers = {
    "fdatasync": (75, 83),
    "fsync": (74, 82),
    "sync": (162, 81),
    "sync_file_range": (277, 84),
    "syncfs": (306, 267),
}

DENIED: Numbers = {
    # namespaces, mounts, roots
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "mount_setattr": (442, 442),
    "statmount": (457, 457),
    "listmount": (458, 458),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "fanotify_init": (300, 262),
    # other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
    "set_mempolicy_home_node": (450, 450),
    # parts of the kernel with a long record of holes
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "lsm_set_self_attr": (460, 460),
    "lookup_dcookie": (212, 18),
    "modify_ldt": (154, None),
    "remap_file_pages": (216, 234),
    # memory that belongs to no process
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    # the machine
    "io_setup": (206, 0),  # what all programs together may have of these is little
    "cachestat": (451, 451),  # which files others have read
    "acct": (163, 89),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "settimeofday": (164, 170),
    "delete_module": (176, 106),
    "finit_module": (313, 273),
    "init_module": (175, 105),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "nfsservctl": (180, 42),
    "reboot": (169, 142),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "sysfs": (139, None),
    "uselib": (134, None),
    "ustat": (136, None),
    "vhangup": (153, 58),
}


def numbers(table: Numbers, machine: str) -> dict[str, int]:
    """The calls of a table that "x86_64" or "aarch64" has."""
    column = {"x86_64": 0, "aarch64": 1}[machine]
    found = ((name, row[column]) for name, row in table.items())
    return {name: number for name, number in found if number is not None}
