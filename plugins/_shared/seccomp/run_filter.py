"""The system-call filter of sandboxed runs (see seccomp(2)).

Denied calls fail with EPERM. Calls newer than our table, and clone3 (whose flags lie in memory,
where a filter can't look), fail with ENOSYS as on an older kernel, so that the C library falls
back. Uncommon ioctl requests fail with ENOTTY, as on files that don't know them. Calls of
a foreign ABI kill the process.

Ignored calls succeed and change nothing: setting the limit on core dumps, which stays what the
launcher made it (careful programs lower theirs and must not fail), and syncing data to disk.
"""

import errno

from plugins._shared.seccomp.argument_rules import build_argument_rules
from plugins._shared.seccomp.bpf import (
    AT_LEAST,
    EQUAL,
    GREATER,
    Block,
    allow,
    assemble,
    fail_with,
    is_supported,
    reject_foreign_abi,
    return_for_each,
    run_if,
    run_unless,
)
from plugins._shared.seccomp.numbers import (
    FIRST_COMMON,
    HIGHEST,
    HIGHEST_OF_ARCHITECTURE,
    syscall_numbers,
)

__all__ = ["DENIED", "IGNORED", "build_run_filter", "is_supported"]

# A run writes to no disk. These would only make the machine's disks wait for others' data.
IGNORED = ("fdatasync", "fsync", "sync", "sync_file_range", "syncfs")

DENIED = (
    # namespaces, mounts, roots
    "unshare", "setns", "mount", "umount2", "pivot_root", "chroot", "fsopen", "fsconfig",
    "fsmount", "fspick", "move_mount", "open_tree", "open_tree_attr", "mount_setattr", "statmount",
    "listmount", "quotactl", "quotactl_fd", "open_by_handle_at", "name_to_handle_at",
    "fanotify_init",
    # other processes
    "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "process_mrelease",
    "pidfd_getfd", "kcmp", "migrate_pages", "move_pages", "mbind", "set_mempolicy",
    "set_mempolicy_home_node",
    # parts of the kernel with a long record of holes
    "io_uring_setup", "io_uring_enter", "io_uring_register", "bpf", "perf_event_open",
    "userfaultfd", "keyctl", "add_key", "request_key", "lsm_set_self_attr", "lookup_dcookie",
    "modify_ldt", "remap_file_pages",
    # memory that belongs to no process
    "memfd_secret", "shmget", "msgget", "semget",
    # the machine
    "io_setup",  # what all programs together may have of these is little
    "cachestat",  # which files others have read
    "acct", "adjtimex", "clock_adjtime", "clock_settime", "settimeofday", "delete_module",
    "finit_module", "init_module", "ioperm", "iopl", "kexec_file_load", "kexec_load", "nfsservctl",
    "reboot", "setdomainname", "sethostname", "swapoff", "swapon", "syslog", "sysfs", "uselib",
    "ustat", "vhangup",
)  # fmt: skip


def build_run_filter(machine: str, *, memory_counted: bool = False) -> bytes:
    """The filter as an array of struct sock_filter, as `bwrap --seccomp` reads it.

    `memory_counted`: the kernel counts the memory of the run as a whole, including files that
    belong to no process.
    """
    return assemble(
        [
            *reject_foreign_abi(machine),
            *_reject_unknown(machine),
            *_check_arguments(machine, memory_counted),
            *return_for_each(syscall_numbers(DENIED, machine).values(), fail_with(errno.EPERM)),
            *return_for_each(syscall_numbers(IGNORED, machine).values(), fail_with(0)),
            allow(),
        ]
    )


def _reject_unknown(machine: str) -> Block:
    """Numbers beyond the table and in its gap."""
    return [
        *run_if(GREATER, HIGHEST, [fail_with(errno.ENOSYS)]),
        *run_if(
            GREATER,
            HIGHEST_OF_ARCHITECTURE[machine],
            run_unless(AT_LEAST, FIRST_COMMON, [fail_with(errno.ENOSYS)]),
        ),
    ]


def _check_arguments(machine: str, memory_counted: bool) -> Block:
    rules = build_argument_rules(memory_counted=memory_counted)
    numbers = syscall_numbers(rules, machine)
    return [line for name, block in rules.items() for line in run_if(EQUAL, numbers[name], block)]
