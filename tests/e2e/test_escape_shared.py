"""Programs that observe or block others through shared kernel objects; what stops each."""

from tests.support.escape import THROUGH, Probe, attempt, confined, controls
from tests.support.escape_server import Target

pytest_plugins = ["tests.support.escape_fixtures"]

FILTERED = {"EPERM": "seccomp"}
NO_SUCH_REQUEST = {"ENOTTY": "seccomp"}
# It seems to be done, where the kernel would have told that it can't be.
PASSED_OVER = {THROUGH: "seccomp"}


def call(name: str, words: str, stopped: dict[str, str], *, control: bool = True) -> Probe:
    """`name` begins with that of the call."""
    return attempt(name, f"call({name.split(maxsplit=1)[0]!r}, {words})", stopped, control=control)


def request(name: str, fd: str, number: int, *, control: bool = False) -> Probe:
    work = f"call('ioctl', {fd}, {number}, bytes(64))"
    return attempt(f"request {name}", work, NO_SUCH_REQUEST, control=control)


A_FILE = "os.open(os.__file__, os.O_RDONLY)"
A_WATCH = "call('inotify_init1', 0), b'/usr/bin'"

PROBES = [
    # What others read, and which programs they start
    call("inotify_add_watch of reading", f"{A_WATCH}, 0x1", FILTERED),
    call("inotify_add_watch of opening", f"{A_WATCH}, 0x20", FILTERED),
    call("inotify_add_watch of having read", f"{A_WATCH}, 0x10", FILTERED),
    call("inotify_add_watch of everything", f"{A_WATCH}, 0xFFF", FILTERED),
    call("fcntl F_NOTIFY", "os.open('/usr', os.O_RDONLY), 1026, 0x10", FILTERED),
    call("cachestat", "-1, None, None, 0", FILTERED),
    call("madvise of pages that the machine merges", "0, 0, 12", FILTERED),
    call("fadvise64 that nobody needs a file", "-1, 0, 0, 4", PASSED_OVER),
    # What there is only once
    call("io_setup", "1, bytes(8)", FILTERED),
    call("mmap of huge pages", "0, 1 << 21, 3, 0x40022, -1, 0", FILTERED),
    call("memfd_create of huge pages", "b'x', 4", FILTERED),
    attempt("terminals", "[os.openpty() for _ in range(200)]", {"ENOSPC": "mount_namespace"},
            control=True),
    call("prctl for a processor core alone", "62, 1, 0, 0, 0", FILTERED),
    # A file that others have to wait for; and the disk
    call("fcntl F_SETLEASE to read", f"{A_FILE}, 1024, 0", FILTERED),
    call("fcntl F_SETLEASE to write", f"{A_FILE}, 1024, 1", FILTERED),
    call("fsync", "-1", PASSED_OVER),
    call("msync", "1 << 12, 1 << 12, 4", PASSED_OVER),
    # The disk's own requests, those of namespaces, and those at which the kernel loads a driver
    request("FIGETBSZ", A_FILE, 2, control=True),
    request("FS_IOC_GETFLAGS", A_FILE, 0x80086601),
    request("FS_IOC_GETFSUUID", A_FILE, 0x80111500),
    request("FS_IOC_FIEMAP", A_FILE, 0xC020660B),
    request("NS_GET_NSTYPE", "os.open('/proc/self/ns/uts', os.O_RDONLY)", 0xB703, control=True),
    request("SIOCGIFBR", "socket.socket().fileno()", 0x8940),
    request("SIOCGIFVLAN", "socket.socket().fileno()", 0x8982),
]  # fmt: skip

# The same for what is the program's own.
ALLOWED = [
    call("inotify_add_watch of writing", "call('inotify_init1', 0), b'/tmp', 0x302", {}),
    attempt("bytes to a file, and to be sure of it",
            "os.fsync(os.open('/tmp/x', os.O_CREAT | os.O_WRONLY))", {}),
    attempt("interfaces", "socket.if_nameindex()", {}),
    attempt("the size of a terminal", "os.get_terminal_size(os.openpty()[0])", {}),
    attempt("how much can be read",
            "__import__('fcntl').ioctl(socket.socketpair()[0], 0x541B, bytes(4))", {}),
]  # fmt: skip


@confined(PROBES)
def test_shared_when_reached_for_from_inside_then_the_layer_stops_it(
    probe: Probe, target: Target
) -> None:
    target.require_stopped(probe)


@confined(ALLOWED)
def test_shared_when_it_is_its_own_then_allowed(probe: Probe, target: Target) -> None:
    output, _ = target.attack(probe)

    assert output == THROUGH


@controls(PROBES)
def test_shared_when_nothing_confines_then_the_probe_gets_through(
    probe: Probe, target: Target
) -> None:
    target.require_passes_unconfined(probe)
