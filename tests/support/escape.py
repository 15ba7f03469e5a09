"""Probes: small programs that try to escape the sandbox, and the layer that stops each.

A probe prints a word or two. Each layer makes the same attempt fail in another way, so what a
probe prints in the sandbox shows which layer stopped it. Its control is the same program as an
ordinary user in temporary namespaces without the sandbox: there it must print something else.
"""

import json
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest

from tests.support.escape_calls import PRELUDE

Test = TypeVar("Test", bound=Callable[..., None])

THROUGH = "through"
ROOT, ORDINARY = "root", "ordinary user"
"""The user of the attacked service."""
RUN = "/api/v1/sandbox/run"
_CONTROL_S = 60
_NAMESPACES = ("pid", "net", "ipc", "uts", "cgroup")

only_x86_64 = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="the numbers of the calls are those of x86_64"
)


@dataclass(frozen=True)
class Probe:
    """`stopped` maps what the program prints when it is stopped to the layer that did it.

    The control, if it has one, keeps the namespaces in `keeps`: without them the probe could not
    see its target either.
    """

    name: str
    code: str
    stopped: Mapping[str, str]
    control: bool = False
    keeps: tuple[str, ...] = ()


def attempt(name: str, work: str, stopped: Mapping[str, str], **more: Any) -> Probe:
    """A probe that is one Python expression."""
    return Probe(name, f"attempt(lambda: {work})", stopped, **more)


def parametrize_probes(probes: Sequence[Probe]) -> Any:
    """Parametrizes a test by probes."""
    return pytest.mark.parametrize("probe", probes, ids=[probe.name for probe in probes])


def confined(probes: Sequence[Probe]) -> Callable[[Test], Test]:
    """Parametrizes a test by probes, against each kind of server."""

    def mark(test: Test) -> Test:
        return only_x86_64(parametrize_probes(probes)(test))

    return mark


def controls(probes: Sequence[Probe]) -> Callable[[Test], Test]:
    """Parametrizes a test by the probes that have a control; it runs as an ordinary user."""
    with_control = [probe for probe in probes if probe.control]

    def mark(test: Test) -> Test:
        as_user = pytest.mark.parametrize("kind", [ORDINARY], indirect=True)
        return only_x86_64(parametrize_probes(with_control)(as_user(test)))

    return mark


def program(probe: Probe, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a request that runs the probe."""
    return {
        "argv": ["python", "-c", PRELUDE + probe.code],
        "environment": {"FACTS": json.dumps(facts)},
    }


def outcome(answer: Mapping[str, Any]) -> str:
    """What the probe printed, or the signal that ended it."""
    if answer["reason"] == "signalled":
        return f"signal {answer['signal']}"
    return answer["stdout"].strip() or f"{answer['reason']}: {answer['stderr'][-2000:]}"


def unconfined(
    probe: Probe, facts: Mapping[str, Any], python: str, uid: int | None
) -> "subprocess.CompletedProcess[str]":
    """The control: as the user `uid` (None: ours, who is not root), in throw-away namespaces."""
    apart = [f"--{name}" for name in _NAMESPACES if name not in probe.keeps]
    proc = ["--fork", "--mount-proc"] if "pid" not in probe.keeps else []
    return subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", *apart, *proc,
         python, "-I", "-c", PRELUDE + probe.code],
        env={"FACTS": json.dumps(facts), "PATH": "/usr/bin:/bin"},
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_CONTROL_S,
        check=False,
        user=uid,
        group=uid,
        extra_groups=None if uid is None else [],
    )  # fmt: skip
