"""Verifies the isolation from inside: a program reports what it can reach, and this judges it."""

from pathlib import Path
from typing import Any

import msgspec

from appliance.domain.execution import Isolation, IsolationLevel
from appliance.errors import SandboxUnavailable
from plugins.sandboxes.bubblewrap.runs.launcher_capabilities import LauncherCapabilities

_NAMESPACES = ("user", "pid", "mnt", "net", "ipc", "uts", "cgroup")
# The init process, the program, and a child of it.
_MAX_PROCESSES = 3
_SECCOMP_FILTER = 2
# See core(5): the kernel then neither writes a file nor starts a handler.
_NO_CORE_DUMPS = (1, 1)
_MUST_DIFFER = ("user", "pid", "mnt", "net", "ipc", "uts")

PROGRAM = """
import json, os, platform, resource, socket
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
def writable(path):
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT))
    except OSError:
        return False
    return True
print(json.dumps({
    "python": platform.python_version(),
    "namespaces": {name: os.readlink("/proc/self/ns/" + name) for name in NAMESPACES},
    "seccomp": int(status["Seccomp"]),
    "no_new_privileges": int(status["NoNewPrivs"]),
    "capabilities": max(int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")),
    "processes": sorted(int(name) for name in os.listdir("/proc") if name.isdigit()),
    "interfaces": [name for _, name in socket.if_nameindex()],
    "writable": [path for path in ("/x", "/etc/x", "/usr/x", "/opt/python/x", "/dev/x",
                                   "/proc/sys/kernel/core_pattern") if writable(path)],
    "supervisor_hidden": not os.access("/proc/1/mem", os.R_OK),
    "core_bytes": resource.getrlimit(resource.RLIMIT_CORE),
    "core_pattern": open("/proc/sys/kernel/core_pattern").read(),
    "boot_parameters": open("/proc/cmdline").read() != "",
    "groups": sum(int(group) != os.getgid() for group in status["Groups"].split()),
}))
""".replace("NAMESPACES", repr(_NAMESPACES))


class ProbeFacts(msgspec.Struct, frozen=True):
    """What PROGRAM prints."""

    python: str
    namespaces: dict[str, str]
    seccomp: int
    no_new_privileges: int
    capabilities: int
    processes: list[int]
    interfaces: list[str]
    writable: list[str]
    supervisor_hidden: bool
    core_bytes: tuple[int, int]
    core_pattern: str
    boot_parameters: bool
    groups: int


def verify_isolation(
    output: bytes, backend: str, capabilities: LauncherCapabilities, *, own_user: bool
) -> tuple[Isolation, ProbeFacts]:
    """Return the isolation that the output of PROGRAM proves, and the decoded facts.

    Raises SandboxUnavailable if a required layer is missing.
    """
    try:
        facts = msgspec.json.decode(output, type=ProbeFacts)
    except msgspec.DecodeError as error:
        raise SandboxUnavailable(f"the sandbox's Python does not work: {error}") from error
    if holes := _find_holes(facts):
        raise SandboxUnavailable(f"the sandbox has holes: {', '.join(holes)}")
    return (
        Isolation(
            backend,
            IsolationLevel.NAMESPACES,
            _layers(facts, capabilities, own_user),
            _degraded(facts, capabilities, own_user),
        ),
        facts,
    )


def _find_holes(facts: ProbeFacts) -> list[str]:
    checks: dict[str, Any] = {
        "the host's processes are visible": len(facts.processes) > _MAX_PROCESSES,
        "no system-call filter": facts.seccomp != _SECCOMP_FILTER,
        "programs can gain privileges": facts.no_new_privileges != 1,
        "programs hold capabilities": facts.capabilities != 0,
        "the network is reachable": facts.interfaces not in ([], ["lo"]),
        f"can write to {facts.writable}": bool(facts.writable),
    }
    for name in _MUST_DIFFER:
        checks[f"the host's {name} namespace"] = facts.namespaces[name] == _own_namespace(name)
    return [hole for hole, exists in checks.items() if exists]


def _layers(
    facts: ProbeFacts, capabilities: LauncherCapabilities, own_user: bool
) -> tuple[str, ...]:
    separate = [name for name in _NAMESPACES if facts.namespaces[name] != _own_namespace(name)]
    layers = [f"{'mount' if name == 'mnt' else name}_namespace" for name in separate]
    layers += ["read_only_system", "no_network", "seccomp", "no_capabilities"]
    layers += ["no_new_privileges", "rlimits", *capabilities.layers]
    if facts.supervisor_hidden:
        layers.append("hidden_supervisor")
    if own_user:
        layers.append("unprivileged_user")
    return tuple(layers)


def _degraded(
    facts: ProbeFacts, capabilities: LauncherCapabilities, own_user: bool
) -> tuple[str, ...]:
    degraded = [*capabilities.degraded]
    if not own_user:
        degraded.append("runs have the service's own user id on the host")
    if facts.groups:
        degraded.append(
            f"runs keep {facts.groups} further groups of the service's user on the host: start "
            "the service as a user that is in its own group only"
        )
    if facts.core_pattern.startswith("|") and facts.core_bytes != _NO_CORE_DUMPS:
        degraded.append(
            "a program that crashes starts the machine's handler of core dumps "
            "(kernel.core_pattern), outside the run's limits: start the service with a limit "
            "on core dumps of 1 byte or more"
        )
    if facts.boot_parameters:
        degraded.append(
            "runs can read the machine's boot parameters and more of its /proc: the service can "
            "hide only what it sees itself; start it without ProcSubset=pid"
        )
    return tuple(degraded)


def _own_namespace(name: str) -> str:
    return str(Path("/proc/self/ns", name).readlink())
