"""Parts of the sandbox that die, and clients that leave: the box goes on.

After each of them nothing is left on the machine, and the next run works.
"""

import contextlib
import os
import signal
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support.escape import RUN
from tests.support.escape_server import Target, attacked_server
from tests.support.escape_traces import (
    Watch,
    control_groups,
    descendants,
    name_of,
    parents,
    with_word,
)
from tests.support.polling import wait_until

pytest_plugins = ["tests.support.escape_fixtures"]

DEADLINE_S = 30


def works(target: Target) -> None:
    assert target.python("print('still here')")["stdout"] == "still here\n"


@contextlib.contextmanager
def going_on(
    target: Target, mark: str
) -> Generator["list[httpx.Response | Exception]", None, None]:
    """A run in which the program sleeps, until the end of this context; then its answer."""
    body = {"argv": ["sh", "-c", f"sleep 20 & sleep 20; : {mark}"]}
    answers: list[httpx.Response | Exception] = []

    def ask() -> None:
        try:
            with target.server.client() as client:
                answers.append(client.post(RUN, json=body))
        except httpx.TransportError as error:
            answers.append(error)

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask)
        wait_until(lambda: with_word(mark))
        yield answers
        asked.result(DEADLINE_S)


def chain(target: Target, mark: str) -> list[int]:
    """The processes from the program up to, and without, the box."""
    assert target.server.process is not None
    table, inside = parents(), set(descendants(target.server.process.pid))
    pid = next(pid for pid in with_word(mark) if pid in inside)
    found: list[int] = []
    while pid != target.server.process.pid:
        found.append(pid)
        pid = table[pid]
    return found


def test_run_when_its_bwrap_is_killed_then_it_ends_and_the_next_one_works(
    target: Target, watch: Watch
) -> None:
    mark = f"outer-{os.getpid()}"
    with watch.nothing_left(), going_on(target, mark) as answers:
        outer = next(pid for pid in reversed(chain(target, mark)) if name_of(pid) == "bwrap")
        os.kill(outer, signal.SIGKILL)

    ended_by_force(answers)
    assert not with_word(mark)
    works(target)


def test_run_when_its_first_process_is_killed_then_it_ends_and_the_next_one_works(
    target: Target, watch: Watch
) -> None:
    mark = f"first-{os.getpid()}"
    with watch.nothing_left(), going_on(target, mark) as answers:
        os.kill(chain(target, mark)[1], signal.SIGKILL)

    ended_by_force(answers)
    assert not with_word(mark)
    works(target)


def test_launcher_when_killed_then_its_runs_end_and_it_is_started_again(
    target: Target, watch: Watch
) -> None:
    mark = f"launcher-{os.getpid()}"
    with watch.nothing_left(), going_on(target, mark) as answers:
        launcher, program = (chain(target, mark)[at] for at in (-1, 0))
        by_itself = name_of(launcher) == "bwrap"
        os.kill(program if by_itself else launcher, signal.SIGKILL)
    if by_itself:
        pytest.skip("this service starts its runs itself")

    ended_by_force(answers)
    assert not with_word(mark)
    works(target)


def ended_by_force(answers: "list[httpx.Response | Exception]") -> None:
    (answer,) = answers
    assert isinstance(answer, httpx.Response)
    if answer.status_code == 503:
        assert answer.json()["error"]["code"] == "SANDBOX_UNAVAILABLE"
    else:
        assert answer.status_code == 200, answer.text
        assert answer.json()["reason"] in ("signalled", "wall_time"), answer.text


@pytest.mark.parametrize("route", ["", "/stream"])
def test_run_when_its_client_leaves_then_it_ends(route: str, target: Target, watch: Watch) -> None:
    mark = f"left{len(route)}-{os.getpid()}"
    body = {"argv": ["sh", "-c", f"sleep 20; : {mark}"]}

    def ask_and_leave() -> None:
        with target.server.client() as client, contextlib.suppress(httpx.TimeoutException):
            client.post(RUN + route, json=body, timeout=1.5)

    with watch.nothing_left(), ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask_and_leave)
        wait_until(lambda: with_word(mark))
        asked.result(DEADLINE_S)
        wait_until(lambda: not with_word(mark))
    works(target)


def test_service_when_killed_in_the_middle_then_nothing_is_left_and_it_starts_again(
    kind: str,
) -> None:
    with attacked_server(kind) as target:
        assert target.server.process is not None
        works(target)
        pid, mark = target.server.process.pid, f"service-{os.getpid()}-{kind[0]}"
        with going_on(target, mark) as answers:
            family = {pid, *descendants(pid)}
            begun = {each: begin(each) for each in family}
            target.server.kill()
        assert isinstance(answers[0], Exception)
        wait_until(lambda: not [p for p, when in begun.items() if when and begin(p) == when])
        wait_until(lambda: not control_groups(family))

        target.server.start()
        with target.server.client() as client:
            answer = client.post(RUN, json={"argv": ["python", "-c", "print('again')"]})
        assert answer.json()["stdout"] == "again\n"


def begin(pid: int) -> str:
    """When a process began, in the kernel's ticks; "" if there is none that lives."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == b"Z" else fields[19].decode()
