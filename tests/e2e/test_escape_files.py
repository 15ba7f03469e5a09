"""Programs that try to reach foreign files, and the layer that stops each."""

from pathlib import Path

from tests.support.escape import Probe, attempt, confined, controls
from tests.support.escape_server import Target

pytest_plugins = ["tests.support.escape_fixtures"]

NOT_THERE = {"ENOENT": "mount_namespace"}
READ_ONLY = {"EROFS": "read_only_system"}
FILTERED = {"EPERM": "seccomp"}
COVERED_FILE = {"''": "mount_namespace"}
COVERED_FOLDER = {"[]": "mount_namespace"}
HIDDEN = {"EACCES": "hidden_supervisor"}
# Files of the kernel's that belong to the machine's root, who nobody inside is.
NOT_ROOT = {"EACCES": "user_namespace", "ENOENT": "mount_namespace", "EROFS": "read_only_system"}


def listing(name: str, path: str, *, control: bool = True) -> Probe:
    return attempt(name, f"os.listdir({path})", NOT_THERE, control=control)


def creating(folder: str) -> Probe:
    work = f"os.open('{folder}/made', os.O_CREAT | os.O_WRONLY)"
    return attempt(f"create a file in {folder}", work, READ_ONLY)


def host_file(name: str) -> Probe:
    """A file of /proc that says something of the machine to everybody."""
    code = f"print(repr(text('/proc/{name}')[:60]))"
    return Probe(f"what {name} tells", code, COVERED_FILE, control=True)


def telling_folder(name: str) -> Probe:
    code = f"print(os.listdir('/proc/{name}'))"
    return Probe(f"what {name} tells", code, COVERED_FOLDER, control=True)


# Of these as many as this kernel has.
FILES_OF_PROC = [
    name
    for name in ("bootconfig", "cmdline", "config.gz", "diskstats", "interrupts", "kallsyms",
                 "latency_stats", "modules", "partitions", "sched_debug")
    if Path("/proc", name).exists()
]  # fmt: skip
FOLDERS_OF_PROC = [
    name
    for name in ("asound", "bus", "driver", "fs", "scsi")
    if Path("/proc", name).is_dir() and any(Path("/proc", name).iterdir())
]
# What interpreters and compilers read.
NEEDED_OF_PROC = (
    "cgroups", "cpuinfo", "filesystems", "loadavg", "meminfo", "mounts", "self/cgroup", "self/maps",
    "self/mountinfo", "self/stat", "stat", "sys/kernel/osrelease", "sys/kernel/pid_max",
    "sys/vm/overcommit_memory", "uptime", "version",
)  # fmt: skip

PROBES = [
    # What lies outside of the few folders that are shown
    attempt("read shadow", "text('/etc/shadow')", NOT_THERE, control=True),
    attempt("read shadow by ..", "text('../' * 20 + 'etc/shadow')", NOT_THERE, control=True),
    attempt("read shadow by own root", "text('/proc/self/root/etc/shadow')", NOT_THERE,
            control=True),
    listing("home of root", "'/root'"),
    listing("homes of users", "'/home'"),
    listing("the service's data directory", "facts['data_dir']"),
    attempt("the service's database", "text(facts['database'])", NOT_THERE, control=True),
    attempt("the service's log", "text(facts['log'])", NOT_THERE, control=True),
    listing("the service's runtime directory", "facts['data_dir'] + '/run'"),
    listing("the kernel's /sys", "'/sys'"),
    listing("control groups", "'/sys/fs/cgroup'"),
    listing("/run of the machine", "'/run'"),
    listing("/var/lib of the machine", "'/var/lib'"),
    listing("/mnt of the machine", "'/mnt'"),
    listing("/boot of the machine", "'/boot'"),
    attempt("a file that all may read", "text(facts['open_file'])", NOT_THERE, control=True),
    attempt("a file in the machine's /dev/shm", "text(facts['shared_file'])", NOT_THERE,
            control=True),
    listing("the old root that was left", "'/oldroot'", control=False),
    # Devices
    Probe("every device of the machine",
          "print([p for p in facts['devices'] if os.path.lexists(p)])",
          {"[]": "mount_namespace"}, control=True),
    Probe("what /dev holds",
          "harmless = set('console core fd full null ptmx pts random shm stderr stdin stdout tty "
          "urandom zero'.split())\nprint(sorted(set(os.listdir('/dev')) - harmless))",
          {"[]": "mount_namespace"}, control=True),
    attempt("make a disk's node", "os.mknod('/tmp/disk', 0o60600, os.makedev(254, 0))",
            {"EPERM": "no_capabilities", "EACCES": "landlock"}),
    attempt("make memory's node", "os.mknod('/tmp/mem', 0o20600, os.makedev(1, 1))",
            {"EPERM": "no_capabilities", "EACCES": "landlock"}),
    # Ways around names
    attempt("handle of a file", "call('name_to_handle_at', -100, b'/usr', None, None, 0)", FILTERED,
            control=True),
    attempt("open by handle", "call('open_by_handle_at', -1, None, 0)", FILTERED),
    attempt("root of PID 1", "os.listdir('/proc/1/root')", HIDDEN, control=True),
    attempt("folder of PID 1", "os.listdir('/proc/1/cwd')", HIDDEN, control=True),
    attempt("read the binary of PID 1", "open('/proc/1/exe', 'rb')", HIDDEN, control=True),
    attempt("write the binary of PID 1", "os.open('/proc/1/exe', os.O_WRONLY)",
            {**HIDDEN, "EROFS": "read_only_system", "ETXTBSY": "read_only_system"}),
    attempt("chmod of the own interpreter", "os.chmod('/proc/self/exe', 0o777)", READ_ONLY),
    attempt("write the own library", "os.open(os.__file__, os.O_WRONLY)",
            {"EACCES": "unprivileged_user", "EROFS": "read_only_system"}),
    attempt("hard link to a file outside", "os.link('/usr/bin/env', '/workspace/env')",
            {"EXDEV": "mount_namespace"}),
    attempt("hard link to a file of /etc", "os.link('/etc/passwd', '/tmp/passwd')",
            {"EXDEV": "mount_namespace"}),
    # Changing what is shown
    *(creating(folder) for folder in (
        "/", "/usr", "/usr/bin", "/usr/lib", "/etc", "/etc/sandbox", "/opt/python",
        "/opt/python/bin", "/dev", "/var")),
    attempt("chmod of the interpreter", "os.chmod('/opt/python/bin/python3', 0o777)", READ_ONLY),
    attempt("chmod of a system program", "os.chmod('/usr/bin/env', 0o777)", READ_ONLY),
    attempt("remove a system program", "os.unlink('/usr/bin/env')", READ_ONLY),
    attempt("move the passwords away", "os.rename('/etc/passwd', '/etc/passwd2')", READ_ONLY),
    attempt("truncate the init program", "os.truncate('/etc/sandbox/init.pyc', 0)",
            {"EROFS": "read_only_system", "EACCES": "unprivileged_user"}),
    attempt("write a system program", "os.open('/usr/bin/env', os.O_WRONLY)",
            {"EROFS": "read_only_system", "EACCES": "user_namespace"}),
    # The kernel's own files
    *(attempt(f"write {path}", f"os.open('{path}', os.O_WRONLY)", NOT_ROOT) for path in (
        "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sysrq-trigger",
        "/proc/sys/vm/drop_caches", "/proc/sys/fs/binfmt_misc/register",
        "/sys/kernel/uevent_helper", "/sys/fs/cgroup/release_agent", "/proc/irq/0/smp_affinity")),
    Probe("a /proc that can be written",
          "print({bool(os.statvfs(p).f_flag & os.ST_RDONLY) for p in "
          "('/proc', '/proc/sys', '/proc/self', '/proc/fs', '/dev', '/etc', '/usr', '/opt/python', "
          "'/')})",
          {"{True}": "read_only_system"}, control=True),
    *(attempt(f"read {path}", f"os.open('{path}', os.O_RDONLY)", NOT_ROOT) for path in (
        "/proc/kcore", "/proc/kmsg", "/dev/mem", "/dev/kmsg", "/proc/kpagecount",
        "/proc/self/../1/mem")),
    Probe("keys of others", "print(len(text('/proc/keys').splitlines()))",
          {"0": "user_namespace"}),
    *map(host_file, FILES_OF_PROC),
    *map(telling_folder, FOLDERS_OF_PROC),
    attempt("take a cover of /proc off", "call('umount2', b'/proc/cmdline', 2)", FILTERED,
            control=True),
    Probe("the boot parameters by another way",
          "print([bool(text(f'/proc/{p}/root/proc/cmdline')) for p in ('self', 'thread-self')])",
          {"[False, False]": "mount_namespace"}, control=True),
    # Rights that hang on files
    Probe("a setuid program of the system",
          "import subprocess\nwords = ['mount', '--bind', '/tmp', '/tmp']\n"
          "said = subprocess.run(words, capture_output=True, text=True).stderr\n"
          "print('must be superuser' in said or said)",
          {"True": "no_new_privileges"}, control=True),
    Probe("programs of the system that are setuid",
          "print(all(os.statvfs(p).f_flag & os.ST_NOSUID for p in ('/usr', '/tmp', '/workspace', "
          "'/opt/python', '/dev/shm')))",
          {"True": "mount_namespace"}, control=True),
    Probe("devices on what can be written",
          "print(all(os.statvfs(p).f_flag & os.ST_NODEV for p in ('/tmp', '/workspace', "
          "'/dev/shm')))",
          {"True": "mount_namespace"}),
    attempt("capabilities of a file",
            "(open('/tmp/x', 'w').close(), os.setxattr('/tmp/x', 'security.capability', "
            "struct.pack('<5I', 0x2000001, 1 << 21, 0, 0, 0)))",
            {"EPERM": "no_capabilities", "EOPNOTSUPP": "no_capabilities"}),
    attempt("a file of root's", "(open('/tmp/x', 'w').close(), os.chown('/tmp/x', 0, 0))",
            {"EINVAL": "user_namespace"}),
]  # fmt: skip


@confined(PROBES)
def test_file_when_reached_for_from_inside_then_the_layer_stops_it(
    probe: Probe, target: Target
) -> None:
    target.require_stopped(probe)


@controls(PROBES)
def test_file_when_nothing_confines_then_the_probe_gets_through(
    probe: Probe, target: Target
) -> None:
    target.require_passes_unconfined(probe)


def test_proc_when_interpreters_read_it_then_what_they_need_is_there(target: Target) -> None:
    code = f"print([p for p in {NEEDED_OF_PROC} if not open('/proc/' + p).read()])"

    assert target.python(code)["stdout"] == "[]\n"
