"""Fixtures for the servers of escape_server.py; a test module names this in `pytest_plugins`."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.escape_server import ORDINARY, ROOT, Target, attacked_server
from tests.support.escape_traces import TraceMonitor
from tests.support.escape_victims import victims


class Targets:
    """One server of each kind, started at its first use and stopped at the end."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._facts = stack.enter_context(victims())
        self._targets: dict[str, Target] = {}
        self._skipped: dict[str, str] = {}
        self._watches: dict[str, TraceMonitor] = {}

    def get(self, kind: str) -> Target:
        """Skips, with the same reason each time, if this machine can't start such a server."""
        if kind in self._skipped:
            pytest.skip(self._skipped[kind])
        if kind not in self._targets:
            try:
                target = self._stack.enter_context(attacked_server(kind))
            except pytest.skip.Exception as reason:
                self._skipped[kind] = str(reason)
                raise
            target.facts |= self._facts
            self._targets[kind] = target
        return self._targets[kind]

    def watch(self, kind: str) -> TraceMonitor:
        """The monitor of the server of this kind, made after its first run."""
        if kind not in self._watches:
            assert self.get(kind).python("print()")["ok"]
            self._watches[kind] = TraceMonitor(self.get(kind).server)
        return self._watches[kind]


@pytest.fixture(scope="session")
def targets() -> Iterator[Targets]:
    with ExitStack() as stack:
        yield Targets(stack)


@pytest.fixture(params=[ROOT, ORDINARY])
def kind(request: pytest.FixtureRequest) -> str:
    """The user of the service."""
    return request.param


@pytest.fixture
def target(kind: str, targets: Targets) -> Target:
    """A server, beside objects of the host that a run must not reach."""
    return targets.get(kind)


@pytest.fixture
def watch(kind: str, targets: Targets) -> TraceMonitor:
    """Compares the server's traces with those it has while nothing runs."""
    return targets.watch(kind)
