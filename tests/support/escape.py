"""Probes: small programs that want out of the sandbox, and what stops each of them.

A probe prints one word, or few. What it prints in the sandbox is the evidence for the layer
that stopped it: the same attempt ends in another way at each of them. Its control is the
same program as an ordinary user in throw-away namespaces, where nothing of the sandbox
stands in its way: there it must print something else.
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
"""Whose the service is that is attacked."""
RUN = "/api/v1/sandbox/run"
_CONTROL_S = 60
_NAMESPACES = ("pid", "net", "ipc", "uts", "cgroup")

only_x86_64 = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="the numbers of the calls are those of x86_64"
)


@dataclass(frozen=True)
class Probe:
    """`stopped` maps what the program prints when it is stopped to the layer that did it.

    `bites`: it has a control. The control keeps the namespaces in `keeps`, since without
    them the probe's aim would be out of its sight too.
    """

    name: str
    code: str
    stopped: Mapping[str, str]
    bites: bool = False
    keeps: tuple[str, ...] = ()


def attempt(name: str, work: str, stopped: Mapping[str, str], **more: Any) -> Probe:
    """A probe that is one Python expression."""
    return Probe(name, f"attempt(lambda: {work})", stopped, **more)


def each(probes: Sequence[Probe]) -> Any:
    """Parametrizes a test by probes."""
    return pytest.mark.parametrize("probe", probes, ids=[probe.name for probe in probes])


def confined(probes: Sequence[Probe]) -> Callable[[Test], Test]:
    """Parametrizes a test by probes, in either box."""

    def mark(test: Test) -> Test:
        return only_x86_64(each(probes)(test))

    return mark


def controls(probes: Sequence[Probe]) -> Callable[[Test], Test]:
    """Parametrizes a test by those probes that have a control, as an ordinary user."""
    biting = [probe for probe in probes if probe.bites]

    def mark(test: Test) -> Test:
        as_user = pytest.mark.parametrize("kind", [ORDINARY], indirect=True)
        return only_x86_64(each(biting)(as_user(test)))

    return mark


def program(probe: Probe, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a request that runs the probe."""
    return {
        "argv": ["python", "-c", PRELUDE + probe.code],
        "environment": {"FACTS": json.dumps(facts)},
    }


def outcome(answer: Mapping[str, Any]) -> str:
    """What the probe has printed, or the signal that ended it."""
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
