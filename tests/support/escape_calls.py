"""The prologue of each probe: system calls by name, and printing the outcome of an attempt.

The numbers are those of x86_64 (arch/x86/entry/syscalls/syscall_64.tbl).
"""

NUMBERS = {
    "mmap": 9, "ioctl": 16, "msync": 26, "madvise": 28, "shmget": 29, "shmat": 30, "socket": 41,
    "socketpair": 53, "clone": 56, "semget": 64, "msgget": 68, "fcntl": 72, "fsync": 74,
    "ptrace": 101, "syslog": 103, "capset": 126, "uselib": 134, "personality": 135, "ustat": 136,
    "sysfs": 139, "sched_setscheduler": 144, "mlockall": 151, "vhangup": 153, "modify_ldt": 154,
    "pivot_root": 155, "prctl": 157, "adjtimex": 159, "setrlimit": 160, "chroot": 161, "acct": 163,
    "settimeofday": 164, "mount": 165, "umount2": 166, "swapon": 167, "swapoff": 168, "reboot": 169,
    "sethostname": 170, "setdomainname": 171, "iopl": 172, "ioperm": 173, "init_module": 175,
    "delete_module": 176, "quotactl": 179, "nfsservctl": 180, "io_setup": 206,
    "lookup_dcookie": 212, "remap_file_pages": 216, "fadvise64": 221, "clock_settime": 227,
    "mbind": 237, "set_mempolicy": 238, "mq_open": 240, "kexec_load": 246, "add_key": 248,
    "request_key": 249, "keyctl": 250, "ioprio_set": 251, "inotify_add_watch": 254,
    "migrate_pages": 256, "unshare": 272, "move_pages": 279, "inotify_init1": 294,
    "perf_event_open": 298, "fanotify_init": 300, "name_to_handle_at": 303,
    "open_by_handle_at": 304, "clock_adjtime": 305, "setns": 308, "process_vm_readv": 310,
    "process_vm_writev": 311, "kcmp": 312, "finit_module": 313, "sched_setattr": 314,
    "seccomp": 317, "memfd_create": 319, "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323,
    "in the gap": 400, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432,
    "fspick": 433, "clone3": 435, "pidfd_getfd": 438, "process_madvise": 440, "mount_setattr": 442,
    "quotactl_fd": 443, "landlock_create_ruleset": 444, "memfd_secret": 447,
    "process_mrelease": 448, "set_mempolicy_home_node": 450, "cachestat": 451, "statmount": 457,
    "listmount": 458, "lsm_set_self_attr": 460, "open_tree_attr": 467, "of the future": 480,
    "unknown to anybody": 4000,
}  # fmt: skip

PRELUDE = f"""
import ctypes, errno, json, os, socket, struct
facts = json.loads(os.environ['FACTS'])
NUMBERS = {NUMBERS!r}
libc = ctypes.CDLL(None, use_errno=True)

def call(name, *words):
    'A system call, undiluted; OSError if it fails.'
    words = [w if isinstance(w, (bytes, type(None), ctypes.Array)) else ctypes.c_long(w)
             for w in words]
    got = libc.syscall(ctypes.c_long(NUMBERS[name]), *words)
    if got < 0:
        raise OSError(ctypes.get_errno(), name)
    return got

def attempt(work):
    'Print the name of the error that stopped it, or that nothing did.'
    try:
        work()
    except OSError as error:
        print(errno.errorcode.get(error.errno, error.errno), flush=True)
    else:
        print('through', flush=True)

def text(path):
    with open(path, 'rb') as file:
        return file.read().decode(errors='replace')

def status(pid='self'):
    return dict(line.split(':', 1) for line in text(f'/proc/{{pid}}/status').splitlines())
"""
