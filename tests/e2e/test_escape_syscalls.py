"""System calls with a history of vulnerabilities, or that act on the machine; what stops each.

The arguments are such that a call that gets through still does nothing.
"""

from tests.support.escape import THROUGH, Probe, attempt, confined, controls
from tests.support.escape_server import Target

pytest_plugins = ["tests.support.escape_fixtures"]

FILTERED = {"EPERM": "seccomp"}
UNKNOWN = {"ENOSYS": "seccomp"}
KILLED = {"signal 31": "seccomp"}
NO_RIGHT = {"EPERM": "no_capabilities"}

# mov eax, NUMBER; int 0x80; ret: as a 32-bit program asks
I386 = """
import mmap
page = mmap.mmap(-1, 4096, prot=7)
page.write(bytes.fromhex('b8{number:02x}000000cd80c3'))
ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
print('through')
"""

# A terminal of its own, which is the one that it hears: only there TIOCSTI is for everybody.
TERMINAL = """
try: os.setsid()
except PermissionError: pass
master, slave = os.openpty()
terminal = os.open(os.ttyname(slave), os.O_RDWR)
"""


def filtered(name: str, *words: object, control: bool = True) -> Probe:
    """A call that the filter refuses, whatever its arguments."""
    call, *arguments = (repr(word) for word in (name, *words))
    return attempt(name, f"call({', '.join([call, *arguments])})", FILTERED, control=control)


def refused(name: str, *words: object) -> Probe:
    """The same, for a call that the kernel refuses to everybody but the machine's root."""
    return filtered(name, *words, control=False)


def ioctl(name: str, number: int) -> Probe:
    work = f"attempt(lambda: call('ioctl', terminal, {number}, bytes(64)))"
    return Probe(f"ioctl {name}", TERMINAL + work, FILTERED, control=True)


PROBES = [
    # Other processes
    filtered("ptrace", 0, 0, 0, 0),
    filtered("process_vm_readv", -1, None, 0, None, 0, 0),
    filtered("process_vm_writev", -1, None, 0, None, 0, 0),
    filtered("process_madvise", -1, None, 0, 0, 0),
    filtered("process_mrelease", -1, 0),
    filtered("pidfd_getfd", -1, 0, 0),
    filtered("kcmp", 1, 1, 0, 0, 0),
    filtered("migrate_pages", 0, 0, None, None),
    filtered("move_pages", 0, 0, None, None, None, 0),
    # Parts of the kernel with a long record of holes
    filtered("io_uring_setup", 1, bytes(120)),
    filtered("io_uring_enter", -1, 0, 0, 0, None, 0),
    filtered("io_uring_register", -1, 0, None, 0),
    refused("bpf", 0, None, 0),
    filtered("perf_event_open", None, 0, -1, -1, 0),
    filtered("userfaultfd", 1),
    filtered("add_key", b"user", b"probe", b"x", 1, -2),
    filtered("keyctl", 0, -3, 0, 0, 0),
    filtered("request_key", b"user", b"no such key", None, 0),
    filtered("modify_ldt", 0, None, 0),
    filtered("remap_file_pages", 0, 0, 0, 0, 0),
    filtered("mbind", 0, 0, 0, None, 0, 0),
    filtered("set_mempolicy", 0, None, 0),
    filtered("set_mempolicy_home_node", 0, 0, 0, 0),
    refused("fanotify_init", 0, 0),
    filtered("memfd_secret", 1 << 20),
    filtered("lookup_dcookie", 0, None, 0),
    filtered("uselib", None),
    filtered("ustat", 0, None),
    filtered("sysfs", 3),
    filtered("nfsservctl", 0, None, None),
    # The machine
    refused("acct", None),
    filtered("adjtimex", bytes(208)),
    filtered("clock_adjtime", 0, bytes(208)),
    filtered("clock_settime", 0, None),
    refused("settimeofday", None, b"\0" * 8),
    refused("init_module", None, 0, None),
    refused("finit_module", -1, None, 0),
    refused("delete_module", None, 0),
    refused("ioperm", 0, 1, 1),
    filtered("iopl", 0),
    refused("kexec_load", 0, 0, None, 1),
    refused("kexec_file_load", -1, -1, 0, None, 0),
    refused("reboot", 0, 0, 0, None),
    refused("swapon", None, 0),
    refused("swapoff", None),
    filtered("quotactl", 0, None, 0, None),
    filtered("quotactl_fd", -1, 0, 0, None),
    refused("syslog", 1, None, 0),
    refused("vhangup"),
    filtered("lsm_set_self_attr", 0, None, 0, 0),
    # Another layout of memory, another system, another way to ask
    *(attempt(f"personality {name}", f"call('personality', {number})", FILTERED, control=True)
      for name, number in {"without random addresses": 0x40000, "executable data": 0x400000,
                           "32-bit": 8, "of another system": 1}.items()),
    *(Probe(f"32-bit call {name}", I386.format(number=number), KILLED, control=True)
      for name, number in {"getpid": 20, "getuid": 24, "sync": 36}.items()),
    Probe("call of the x32 kind", "attempt(lambda: libc.syscall(ctypes.c_long(0x40000027)))",
          KILLED, control=True),
    attempt("a call of the future", "call('of the future')", UNKNOWN),
    attempt("a call in the gap between old and new", "call('in the gap')", UNKNOWN),
    attempt("a call that nobody knows", "call('unknown to anybody')", UNKNOWN),
    # Terminals
    ioctl("TIOCSTI", 0x5412),
    ioctl("TIOCSTI, with bits that the kernel does not look at", 0xF00000005412),
    ioctl("TIOCLINUX", 0x541C),
    ioctl("TIOCSETD", 0x5423),
    # Filters of its own are allowed; they don't take away the one that is there.
    attempt("a filter of its own that allows all",
            "call('prctl', 22, 2, struct.pack('<HxxxxxxQ', 1, ctypes.addressof(allow := "
            "ctypes.create_string_buffer(struct.pack('<HBBI', 6, 0, 0, 0x7fff0000)))), 0, 0) "
            "and 0 or call('unshare', 0x10000000)", FILTERED),
    attempt("memory that belongs to no process", "call('memfd_create', b'x', 0)",
            {**FILTERED, THROUGH: "cgroup_memory"}),
]  # fmt: skip

# Nothing of these leads out; programs use them, to confine themselves further.
ALLOWED = [
    attempt("landlock", "call('landlock_create_ruleset', None, 0, 1)", {}),
    attempt("a filter", "call('seccomp', 2, 0, struct.pack('<I', 0x7fff0000))", {}),
    attempt("pidfd of itself", "os.pidfd_open(os.getpid())", {}),
    attempt("threads", "__import__('threading').Thread(target=print).start()", {}),
    attempt("a pair of sockets", "socket.socketpair()", {}),
    attempt("a server for itself", "socket.create_server(('127.0.0.1', 0))", {}),
    attempt("processes", "__import__('multiprocessing').get_context('fork').Pool(2).terminate()",
            {}),
]  # fmt: skip


@confined(PROBES)
def test_call_when_made_from_inside_then_the_layer_stops_it(probe: Probe, target: Target) -> None:
    target.require_stopped(probe)


@confined(ALLOWED)
def test_call_when_it_leads_nowhere_then_allowed(probe: Probe, target: Target) -> None:
    outcome, _ = target.attack(probe)

    assert outcome.splitlines()[-1] == THROUGH or "ENOSYS" in outcome


@controls(PROBES)
def test_call_when_nothing_confines_then_the_probe_gets_through(
    probe: Probe, target: Target
) -> None:
    target.require_passes_unconfined(probe)
