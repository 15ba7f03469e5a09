"""Processes of the sandbox that are killed and clients that leave: the server goes on.

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
    TraceMonitor,
    control_groups,
    descendants,
    find_processes,
    name_of,
    parents_by_pid,
)
from tests.support.polling import wait_until

pytest_plugins = ["tests.support.escape_fixtures"]

DEADLINE_S = 30


def assert_works(target: Target) -> None:
    assert target.python("print('still here')")["stdout"] == "still here\n"


@contextlib.contextmanager
def running_program(
    target: Target, mark: str
) -> Generator["list[httpx.Response | Exception]", None, None]:
    """A run whose program sleeps; the list holds its answer after the context."""
    body = {"argv": ["sh", "-c", f"sleep 20 & sleep 20; : {mark}"]}
    answers: list[httpx.Response | Exception] = []

    def ask() -> None:
        try:
            with target.server.client() as client:
                answers.append(client.post(RUN, json=body))
        except httpx.TransportError as error:
            answers.append(error)

    with ThreadPoolExecutor(1) as pool:
        request = pool.submit(ask)
        wait_until(lambda: find_processes(mark))
        yield answers
        request.result(DEADLINE_S)


def process_chain(target: Target, mark: str) -> list[int]:
    """Process ids from the program up to the server, without the server."""
    assert target.server.process is not None
    table, inside = parents_by_pid(), set(descendants(target.server.process.pid))
    pid = next(pid for pid in find_processes(mark) if pid in inside)
    pids: list[int] = []
    while pid != target.server.process.pid:
        pids.append(pid)
        pid = table[pid]
    return pids


def test_run_when_its_bwrap_is_killed_then_it_ends_and_the_next_one_works(
    target: Target, watch: TraceMonitor
) -> None:
    mark = f"outer-{os.getpid()}"
    with watch.assert_nothing_remains(), running_program(target, mark) as answers:
        outer = next(
            pid for pid in reversed(process_chain(target, mark)) if name_of(pid) == "bwrap"
        )
        os.kill(outer, signal.SIGKILL)

    ended_by_force(answers)
    assert not find_processes(mark)
    assert_works(target)


def test_run_when_its_first_process_is_killed_then_it_ends_and_the_next_one_works(
    target: Target, watch: TraceMonitor
) -> None:
    mark = f"first-{os.getpid()}"
    with watch.assert_nothing_remains(), running_program(target, mark) as answers:
        os.kill(process_chain(target, mark)[1], signal.SIGKILL)

    ended_by_force(answers)
    assert not find_processes(mark)
    assert_works(target)


def test_launcher_when_killed_then_its_runs_end_and_it_is_started_again(
    target: Target, watch: TraceMonitor
) -> None:
    mark = f"launcher-{os.getpid()}"
    with watch.assert_nothing_remains(), running_program(target, mark) as answers:
        launcher, program = (process_chain(target, mark)[at] for at in (-1, 0))
        by_itself = name_of(launcher) == "bwrap"
        os.kill(program if by_itself else launcher, signal.SIGKILL)
    if by_itself:
        pytest.skip("this service starts its runs itself")

    ended_by_force(answers)
    assert not find_processes(mark)
    assert_works(target)


def ended_by_force(answers: "list[httpx.Response | Exception]") -> None:
    (answer,) = answers
    assert isinstance(answer, httpx.Response)
    if answer.status_code == 503:
        assert answer.json()["error"]["code"] == "SANDBOX_UNAVAILABLE"
    else:
        assert answer.status_code == 200, answer.text
        assert answer.json()["reason"] in ("signalled", "wall_time"), answer.text


@pytest.mark.parametrize("route", ["", "/stream"])
def test_run_when_its_client_leaves_then_it_ends(
    route: str, target: Target, watch: TraceMonitor
) -> None:
    mark = f"left{len(route)}-{os.getpid()}"
    body = {"argv": ["sh", "-c", f"sleep 20; : {mark}"]}

    def ask_and_leave() -> None:
        with target.server.client() as client, contextlib.suppress(httpx.TimeoutException):
            client.post(RUN + route, json=body, timeout=1.5)

    with watch.assert_nothing_remains(), ThreadPoolExecutor(1) as pool:
        request = pool.submit(ask_and_leave)
        wait_until(lambda: find_processes(mark))
        request.result(DEADLINE_S)
        wait_until(lambda: not find_processes(mark))
    assert_works(target)


def test_service_when_killed_in_the_middle_then_nothing_is_left_and_it_starts_again(
    kind: str,
) -> None:
    with attacked_server(kind) as target:
        assert target.server.process is not None
        assert_works(target)
        pid, mark = target.server.process.pid, f"service-{os.getpid()}-{kind[0]}"
        with running_program(target, mark) as answers:
            family = {pid, *descendants(pid)}
            start_times = {each: start_time(each) for each in family}
            target.server.kill()
        assert isinstance(answers[0], Exception)
        wait_until(
            lambda: (
                not [
                    p
                    for p, started_at in start_times.items()
                    if started_at and start_time(p) == started_at
                ]
            )
        )
        wait_until(lambda: not control_groups(family))

        target.server.start()
        with target.server.client() as client:
            answer = client.post(RUN, json={"argv": ["python", "-c", "print('again')"]})
        assert answer.json()["stdout"] == "again\n"


def start_time(pid: int) -> str:
    """Start time of a process in the kernel's ticks; "" if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == b"Z" else fields[19].decode()
