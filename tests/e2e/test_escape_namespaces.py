"""Programs that create or join namespaces or mount, and the layer that stops each."""

from typing import Any

from tests.support.escape import Probe, attempt, confined, controls
from tests.support.escape_server import Target

pytest_plugins = ["tests.support.escape_fixtures"]

FILTERED = {"EPERM": "seccomp"}
HIDDEN = {"EACCES": "hidden_supervisor"}
SEES_IPC: dict[str, Any] = {"control": True, "keeps": ("ipc",)}

KINDS = {
    "user": 0x10000000, "mount": 0x00020000, "pid": 0x20000000, "net": 0x40000000,
    "ipc": 0x08000000, "uts": 0x04000000, "cgroup": 0x02000000,
}  # fmt: skip
LINKS = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")


def filtered(name: str, *words: object, control: bool = True) -> Probe:
    """A system call that the filter refuses, whatever its arguments."""
    call, *arguments = (repr(word) for word in (name, *words))
    return attempt(name, f"call({', '.join([call, *arguments])})", FILTERED, control=control)


def unshare(name: str, flags: int) -> Probe:
    return attempt(f"unshare {name}", f"call('unshare', {flags})", FILTERED, control=True)


def clone(name: str, flags: int) -> Probe:
    # A child that is made has nothing to say.
    work = f"call('clone', {flags | 17}, 0, 0, 0, 0) or os._exit(0)"
    return attempt(f"clone {name}", work, FILTERED, control=True)


def own_namespace(name: str, layer: str) -> Probe:
    """Another one than the service's, which the control is in."""
    keeps = {"mnt": (), "user": ()}.get(name, (name,))
    code = f"print(os.readlink('/proc/self/ns/{name}') != facts['namespaces']['{name}'])"
    return Probe(f"another {name} namespace", code, {"True": layer}, bool(keeps), keeps)


PROBES = [
    *(unshare(name, flags) for name, flags in KINDS.items()),
    unshare("time", 0x80),
    unshare("all at once", sum(KINDS.values())),
    unshare("user and threads", 0x10000000 | 0x200),
    *(clone(name, flags) for name, flags in KINDS.items()),
    clone("all at once", sum(KINDS.values())),
    attempt("clone with flags out of the filter's sight",
            "call('clone3', struct.pack('<11Q', 0x10000000, *[0] * 10), 88)", {"ENOSYS": "seccomp"},
            control=True),
    *(attempt(f"join PID 1's {name}", f"os.open('/proc/1/ns/{name}', os.O_RDONLY)", HIDDEN,
              control=True) for name in LINKS),
    *(attempt(f"join the own {name} once more",
              f"call('setns', os.open('/proc/self/ns/{name}', os.O_RDONLY), 0)", FILTERED,
              control=name not in ("user",)) for name in LINKS),
    attempt("join by a process", "call('setns', os.pidfd_open(1), 0x40000000)", FILTERED),
    own_namespace("user", "user_namespace"),
    own_namespace("mnt", "mount_namespace"),
    own_namespace("pid", "pid_namespace"),
    own_namespace("net", "net_namespace"),
    own_namespace("ipc", "ipc_namespace"),
    own_namespace("uts", "uts_namespace"),
    Probe("the machine's name", "print(os.uname().nodename)", {"sandbox": "uts_namespace"},
          control=True),
    filtered("sethostname", b"mine", 4),
    filtered("setdomainname", b"mine", 4),
    Probe("where in the control groups it is",
          "print({line.split(':')[2] for line in text('/proc/self/cgroup').splitlines()})",
          {"{'/'}": "cgroup_namespace"}),
    # Mounts
    attempt("mount a tmpfs", "call('mount', b'none', b'/tmp', b'tmpfs', 0, None)", FILTERED,
            control=True),
    attempt("mount /proc", "call('mount', b'none', b'/tmp', b'proc', 0, None)", FILTERED,
            control=True),
    attempt("mount an overlay",
            "call('mount', b'none', b'/tmp', b'overlay', 0, b'lowerdir=/etc:/usr')", FILTERED,
            control=True),
    attempt("bind a folder", "call('mount', b'/usr', b'/tmp', None, 4096, None)", FILTERED,
            control=True),
    attempt("remount to write", "call('mount', None, b'/', None, 4096 | 32, None)", FILTERED),
    attempt("make mounts shared", "call('mount', None, b'/', None, 1 << 20, None)", FILTERED,
            control=True),
    filtered("umount2", b"/proc", 2),
    filtered("pivot_root", b"/tmp", b"/tmp"),
    filtered("chroot", b"/"),
    filtered("fsopen", b"tmpfs", 0),
    filtered("fsconfig", -1, 0, None, None, 0),
    filtered("fsmount", -1, 0, 0),
    filtered("fspick", -100, b"/proc", 0),
    filtered("open_tree", -100, b"/", 1),
    filtered("open_tree_attr", -100, b"/", 1, None, 0),
    filtered("move_mount", -1, b"", -100, b"/tmp", 4),
    filtered("mount_setattr", -100, b"/nowhere", 0, bytes(32), 32),
    filtered("statmount", None, None, 0, 0),
    filtered("listmount", None, None, 0, 0),
    # What other namespaces could share with it
    attempt("shared memory of the machine, by key", "call('shmget', facts['key'], 4096, 0)",
            FILTERED, **SEES_IPC),
    attempt("shared memory of the machine, by number", "call('shmat', facts['shm'], 0, 0o10000)",
            {"EINVAL": "ipc_namespace", "EPERM": "seccomp"}, **SEES_IPC),
    attempt("a semaphore of the machine", "call('semget', facts['key'], 1, 0)",
            {"ENOENT": "ipc_namespace", "EPERM": "seccomp"}, **SEES_IPC),
    attempt("a message queue of the machine", "call('msgget', facts['key'], 0)", FILTERED,
            **SEES_IPC),
    attempt("a POSIX queue of the machine", "call('mq_open', facts['queue'].encode(), 2, 0, None)",
            {"ENOENT": "ipc_namespace"}, **SEES_IPC),
    Probe("SysV objects to be seen",
          "print(sum(len(text('/proc/sysvipc/' + kind).splitlines()) - 1 "
          "for kind in ('shm', 'sem', 'msg')))", {"0": "ipc_namespace"}, **SEES_IPC),
    attempt("semaphores of its own", "call('semget', 0, 32000, 0o600)", FILTERED, control=True),
    attempt("shared memory of its own", "call('shmget', 0, 1 << 30, 0o600)", FILTERED,
            control=True),
    attempt("a message queue of its own", "call('msgget', 0, 0o600)", FILTERED, control=True),
    attempt("a POSIX queue of its own", "call('mq_open', b'mine', 0o102, 0o600, None)",
            {"EMFILE": "rlimits"}, control=True),
]  # fmt: skip


@confined(PROBES)
def test_namespace_when_left_or_made_from_inside_then_the_layer_stops_it(
    probe: Probe, target: Target
) -> None:
    target.require_stopped(probe)


@controls(PROBES)
def test_namespace_when_nothing_confines_then_the_probe_gets_through(
    probe: Probe, target: Target
) -> None:
    target.require_passes_unconfined(probe)
