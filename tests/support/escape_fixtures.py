"""The boxes of tests/support/escape_server.py; a test module takes them by `pytest_plugins`."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.escape_server import ORDINARY, ROOT, Target, attacked_server
from tests.support.escape_traces import Watch
from tests.support.escape_victims import victims


class Targets:
    """One box of each kind, started when it is first asked for, and stopped at the end."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._facts = stack.enter_context(victims())
        self._targets: dict[str, Target] = {}
        self._skipped: dict[str, str] = {}
        self._watches: dict[str, Watch] = {}

    def get(self, kind: str) -> Target:
        """Skips, for the same reason each time, where there can be no such box."""
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

    def watch(self, kind: str) -> Watch:
        """Over the box of this kind, after its first run."""
        if kind not in self._watches:
            assert self.get(kind).python("print()")["ok"]
            self._watches[kind] = Watch(self.get(kind).server)
        return self._watches[kind]


@pytest.fixture(scope="session")
def targets() -> Iterator[Targets]:
    with ExitStack() as stack:
        yield Targets(stack)


@pytest.fixture(params=[ROOT, ORDINARY])
def kind(request: pytest.FixtureRequest) -> str:
    """Whose the service is."""
    return request.param


@pytest.fixture
def target(kind: str, targets: Targets) -> Target:
    """A box, with things of the host around it that are none of a run's business."""
    return targets.get(kind)


@pytest.fixture
def watch(kind: str, targets: Targets) -> Watch:
    """What that box has when no run is going on, to compare with."""
    return targets.watch(kind)
