"""Programs that try to reach other processes or gain rights, and the layer that stops each."""

from typing import Any

from tests.support.escape import Probe, attempt, confined, controls
from tests.support.escape_server import Target

pytest_plugins = ["tests.support.escape_fixtures"]

NOBODY = {"ESRCH": "pid_namespace"}
NOT_THERE = {"ENOENT": "pid_namespace"}
FILTERED = {"EPERM": "seccomp"}
HIDDEN = {"EACCES": "hidden_supervisor"}
NO_RIGHT = {"EPERM": "no_capabilities"}
SYSCTL = {"EACCES": "user_namespace", "EROFS": "read_only_system", "ENOENT": "mount_namespace"}
SEES_HOST: dict[str, Any] = {"control": True, "keeps": ("pid",)}
# Numbers of asm-generic/resource.h.
LIMITS = {"CPU": 0, "FSIZE": 1, "DATA": 2, "STACK": 3, "NPROC": 6, "NOFILE": 7,
          "MEMLOCK": 8, "MSGQUEUE": 12}  # fmt: skip


def of_service(what: str) -> Probe:
    """A file in the service's own folder of /proc."""
    work = f"text('/proc/%d/{what}' % facts['pid'])"
    return attempt(f"the service's {what}", work, NOT_THERE, **SEES_HOST)


def of_init(what: str) -> Probe:
    """A file in the folder of PID 1, which watches the program and is of the same user."""
    return attempt(f"PID 1's {what}", f"text('/proc/1/{what}')", HIDDEN, control=True)


PROBES = [
    # The machine's processes
    Probe("number of processes to be seen",
          "print(sum(name.isdigit() for name in os.listdir('/proc')) <= 2)",
          {"True": "pid_namespace"}, **SEES_HOST),
    attempt("signal to the service", "os.kill(facts['pid'], 0)", NOBODY, **SEES_HOST),
    attempt("signal to the service's group", "os.killpg(facts['pid'], 0)", NOBODY),
    attempt("handle of the service", "os.pidfd_open(facts['pid'])", NOBODY, **SEES_HOST),
    attempt("group of the service", "os.getpgid(facts['pid'])", NOBODY, **SEES_HOST),
    attempt("priority of the service", "os.setpriority(os.PRIO_PROCESS, facts['pid'], 19)", NOBODY),
    attempt("processors of the service", "os.sched_setaffinity(facts['pid'], {0})", NOBODY),
    attempt("scheduling of the service", "os.sched_getscheduler(facts['pid'])", NOBODY,
            **SEES_HOST),
    attempt("limits of the service",
            "__import__('resource').prlimit(facts['pid'], __import__('resource').RLIMIT_NOFILE)",
            NOBODY, **SEES_HOST),
    of_service("cmdline"),
    of_service("environ"),
    of_service("status"),
    of_service("maps"),
    # The one that watches
    Probe("signal that ends PID 1",
          "try: os.kill(1, 9)\nexcept OSError as error: print(errno.errorcode[error.errno])\n"
          "else: print('it lives')",
          {"it lives": "pid_namespace", "EPERM": "landlock_signals"}),
    of_init("environ"),
    of_init("maps"),
    of_init("mem"),
    of_init("auxv"),
    of_init("smaps"),
    attempt("PID 1's descriptors", "os.listdir('/proc/1/fd')", HIDDEN, control=True),
    attempt("PID 1's report", "[os.open(f'/proc/1/fd/{n}', os.O_WRONLY) for n in range(3, 20)]",
            HIDDEN),
    attempt("PID 1's memory, to write", "os.open('/proc/1/mem', os.O_WRONLY)", HIDDEN,
            control=True),
    attempt("tracing PID 1", "call('ptrace', 16, 1, 0, 0)", FILTERED),
    attempt("seizing PID 1", "call('ptrace', 0x4206, 1, 0, 0)", FILTERED),
    # What came with the program
    Probe("descriptors that it was given",
          "before = set(os.listdir('/proc/self/fd'))\nlinks = []\nfor fd in before:\n"
          "  try: links.append((int(fd), os.readlink('/proc/self/fd/' + fd).split(':')[0]))\n"
          "  except FileNotFoundError: pass\nprint(sorted(links))",
          {"[(0, 'pipe'), (1, 'pipe'), (2, 'pipe')]": "pid_namespace"}),
    Probe("variables that it was given",
          "print(sorted(set(os.environ) - {'PATH', 'HOME', 'LANG', 'TMPDIR', 'FACTS', "
          "'PYTHONUNBUFFERED'}))",
          {"[]": "pid_namespace", "['LC_CTYPE']": "pid_namespace"}),
    attempt("a terminal", "open('/dev/tty')", {"ENXIO": "pid_namespace"}),
    Probe("the run's own command lines",
          "lines = text('/proc/1/cmdline').split(chr(0))\n"
          "print(any(facts['data_dir'] in line or 'bwrap' in line for line in lines))",
          {"False": "hidden_supervisor"}),
    # The kernel's own settings
    *(attempt(f"write {path}", f"os.open('/proc/sys/{path}', os.O_WRONLY)", SYSCTL) for path in (
        "kernel/hostname", "kernel/pid_max", "kernel/ns_last_pid", "vm/overcommit_memory",
        "net/ipv4/ip_forward", "net/core/somaxconn", "fs/file-max", "fs/protected_symlinks",
        "user/max_user_namespaces", "kernel/randomize_va_space")),
    attempt("be killed later", "open('/proc/self/oom_score_adj', 'w').write('-1000')",
            {"EROFS": "read_only_system"}),
    attempt("map of users", "os.open('/proc/self/uid_map', os.O_WRONLY)",
            {"EROFS": "read_only_system"}, control=True),
    attempt("file system with labels", "os.open('/proc/self/attr/current', os.O_WRONLY)",
            {"EROFS": "read_only_system", "EINVAL": "no_capabilities"}),
    # Rights
    Probe("users", "print(os.getresuid(), os.getresgid(), os.getgroups())",
          {"(1000, 1000, 1000) (1000, 1000, 1000) []": "user_namespace",
           "(1000, 1000, 1000) (1000, 1000, 1000) [1000]": "user_namespace"}, control=True),
    Probe("capabilities", "s = status()\nprint({int(s[n], 16) for n in "
          "('CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb')})",
          {"{0}": "no_capabilities"}, control=True),
    Probe("privileges that it may gain", "print(status()['NoNewPrivs'].strip())",
          {"1": "no_new_privileges"}, control=True),
    Probe("filters", "print(status()['Seccomp'].strip())", {"2": "seccomp"}, control=True),
    attempt("become root", "os.setuid(0)", {"EINVAL": "user_namespace"}, control=True),
    attempt("join root's group", "os.setgid(0)", {"EINVAL": "user_namespace"}, control=True),
    attempt("join groups", "os.setgroups([1000])", NO_RIGHT),
    attempt("take all capabilities",
            "call('capset', struct.pack('<Ii', 0x20080522, 0), "
            "struct.pack('<6I', *([0xffffffff] * 6)))", NO_RIGHT),
    attempt("take one capability",
            "call('capset', struct.pack('<Ii', 0x20080522, 0), "
            "struct.pack('<6I', 1 << 21, 1 << 21, 0, 0, 0, 0))", NO_RIGHT, control=True),
    attempt("an ambient capability", "call('prctl', 47, 2, 21, 0, 0)", NO_RIGHT),
    attempt("secure bits", "call('prctl', 28, 0, 0, 0, 0)", NO_RIGHT, control=True),
    attempt("take back that no privileges are gained", "call('prctl', 38, 0, 0, 0, 0)",
            {"EINVAL": "no_new_privileges"}),
    attempt("take back the filter", "call('prctl', 22, 0, 0, 0, 0)",
            {"EINVAL": "seccomp"}),
    attempt("go before others", "os.setpriority(os.PRIO_PROCESS, 0, -5)",
            {"EACCES": "no_capabilities", "EPERM": "no_capabilities"}),
    attempt("real-time scheduling", "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))",
            NO_RIGHT),
    attempt("real-time disk access", "call('ioprio_set', 1, 0, 1 << 13)", NO_RIGHT),
    *(attempt(f"raise the limit of {name}", f"call('setrlimit', {number}, bytes([255] * 16))",
              {"EPERM": "rlimits"}) for name, number in LIMITS.items()),
    *(Probe(f"make the limit of core dumps {text}",
            f"call('setrlimit', 4, bytes([{byte}] * 16))\n"
            "print(__import__('resource').getrlimit(4))",
            {"(1, 1)": "seccomp"}, control=byte == 0)
      for text, byte in (("nothing", 0), ("endless", 255))),
    attempt("lock all memory", "call('mlockall', 1)", {"ENOMEM": "rlimits", "EPERM": "rlimits"}),
]  # fmt: skip


@confined(PROBES)
def test_process_when_reached_for_from_inside_then_the_layer_stops_it(
    probe: Probe, target: Target
) -> None:
    target.require_stopped(probe)


@controls(PROBES)
def test_process_when_nothing_confines_then_the_probe_gets_through(
    probe: Probe, target: Target
) -> None:
    target.require_passes_unconfined(probe)
