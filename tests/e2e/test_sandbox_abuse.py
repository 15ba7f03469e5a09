"""Full queues, clients that leave, hostile programs and a killed server: runs stay bounded."""

import contextlib
import os
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.support.sandbox import find_host_processes, find_orphaned_sandboxes
from tests.support.sandbox_server import (
    DEADLINE_S,
    RUN,
    control_groups,
    python,
    until_seen,
    until_unseen,
)
from tests.support.server_process import ServerProcess


def test_queue_when_full_then_refused_with_the_place(sandbox_server: ServerProcess) -> None:
    body = {"argv": ["sh", "-c", "read x; sleep 3"], "limits": {"wall_s": 3}}
    with sandbox_server.client() as client, ThreadPoolExecutor(8) as pool:
        requests = [pool.submit(client.post, RUN, json=body) for _ in range(8)]
        answers = [each.result(DEADLINE_S) for each in requests]

    refused = [answer for answer in answers if answer.status_code == 503]
    assert {answer.status_code for answer in answers} == {200, 503}
    assert refused[0].json()["error"]["code"] == "QUEUE_FULL"
    assert refused[0].json()["error"]["details"]["place"] == 3
    assert int(refused[0].headers["retry-after"]) >= 1


@pytest.mark.parametrize("path", [RUN, f"{RUN}/stream"])
def test_client_when_it_goes_away_then_its_run_ends(
    path: str, sandbox_server: ServerProcess
) -> None:
    mark = f"gone-{path.count('/')}-{os.getpid()}"
    body = {"argv": ["sh", "-c", f"sleep 9; : {mark}"]}

    def ask_and_leave() -> None:
        with sandbox_server.client() as client, contextlib.suppress(httpx.TimeoutException):
            client.post(path, json=body, timeout=1.5)

    with ThreadPoolExecutor(1) as pool:
        request = pool.submit(ask_and_leave)
        until_seen(mark, 1)
        request.result(DEADLINE_S)
    until_unseen(mark, 5)


ATTACKS: dict[str, tuple[str, set[str]]] = {
    "fork bomb": (
        "import os\nwhile True:\n try: os.fork()\n except OSError: pass",
        {"wall_time", "cpu_time", "memory"},
    ),
    "memory in one process": ("x = [bytearray(1 << 20) for _ in range(1000)]", {"exited"}),
    "memory in many processes": (
        "import os, time\nfor _ in range(8):\n if os.fork() == 0: break\n"
        "x = os.urandom(1 << 20) * 30\ntime.sleep(60)",
        {"memory"},
    ),
    "shared memory": (
        "import mmap, time\nm = []\nwhile True:\n m.append(mmap.mmap(-1, 8 << 20)); "
        "m[-1].write(b'x' * (8 << 20)); time.sleep(.01)",
        {"memory"},
    ),
    "endless output": ("while True: print('x' * 10000)", {"output"}),
    "ignored signals": (
        "import signal, time\nfor n in range(1, 32):\n"
        " try: signal.signal(n, signal.SIG_IGN)\n except OSError: pass\ntime.sleep(60)",
        {"wall_time"},
    ),
    "daemon": (
        "import os, time\nif os.fork() == 0:\n os.setsid(); time.sleep(60)\nprint('left')",
        {"exited"},
    ),
}


@pytest.mark.parametrize("name", list(ATTACKS))
def test_attack_when_a_program_wants_too_much_then_it_is_stopped_and_the_server_goes_on(
    name: str, sandbox: httpx.Client
) -> None:
    code, reasons = ATTACKS[name]
    mark = f"attack-{os.getpid()}-{list(ATTACKS).index(name)}"
    body = {"argv": ["python", "-c", f"{code}\n# {mark}"], "limits": {"wall_s": 3}}
    answer = sandbox.post(RUN, json=body).json()

    assert answer["reason"] in reasons, answer
    assert not answer["ok"] or name == "daemon"
    assert not find_host_processes(mark)
    assert python(sandbox, "print('still here')")["stdout"] == "still here\n"


def test_artifacts_when_the_program_plays_tricks_then_only_its_own_files_come_out(
    sandbox: httpx.Client,
) -> None:
    code = """
import os
open('good.txt', 'w').write('good')
os.symlink('/etc/passwd', 'passwd.txt'); os.symlink('/proc/1/environ', 'environ.txt')
os.symlink('/', 'root'); os.symlink('good.txt', 'good-link.txt')
os.link('good.txt', 'second-name.txt'); os.mkfifo('fifo.txt'); os.mkdir('folder.txt')
open('one.txt', 'w').write('1')
os.makedirs('a/b'); os.symlink('../..', 'a/b/up.txt')
open('a/b/deep.txt', 'w').write('deep')
fd = os.open('sparse.txt', os.O_CREAT | os.O_WRONLY); os.ftruncate(fd, 60 << 20)
open(b'\\xff.txt', 'w'); open('new\\nline.txt', 'w').write('x')
"""
    patterns = ["**/*.txt", "root/**", "../**", "/etc/*"]
    answer = python(sandbox, code, artifacts=patterns)

    found = {each["path"]: each["content"] for each in answer["artifacts"]}
    assert found == {"one.txt": "1", "a/b/deep.txt": "deep", "new\nline.txt": "x"}
    refused = "\n".join(answer["artifacts_refused"])
    for name in ("passwd", "environ", "good.txt", "good-link", "second-name", "fifo", "up.txt",
                 "sparse", "udcff"):  # fmt: skip
        assert name in refused


@pytest.mark.parametrize("name", ["{sources}", "a b;c.sh", "-rf", "$(id).sh", "'\"`", "{main}.sh"])
def test_file_when_its_name_is_odd_then_it_is_a_name_and_nothing_else(
    name: str, sandbox: httpx.Client
) -> None:
    body = {"language": "sh", "files": [{"path": name, "content": "echo ran"}]}

    assert sandbox.post(RUN, json=body).json()["stdout"] == "ran\n"


def test_server_when_killed_in_the_middle_then_no_process_and_no_control_group_is_left(
    sandbox_server: ServerProcess,
) -> None:
    before, groups = find_orphaned_sandboxes(), control_groups(sandbox_server)
    mark = f"killed-{os.getpid()}"
    body = {"argv": ["sh", "-c", f"sleep 9 & sleep 9; : {mark}"]}

    def run() -> None:
        with sandbox_server.client() as client, contextlib.suppress(httpx.TransportError):
            client.post(RUN, json=body)

    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(run) for _ in range(2)]
        until_seen(mark, 2)
        sandbox_server.kill()
        for each in runs:
            each.result(DEADLINE_S)
    until_unseen(mark, DEADLINE_S)
    deadline = time.monotonic() + DEADLINE_S
    while find_orphaned_sandboxes() - before or any(group.exists() for group in groups):
        assert time.monotonic() < deadline, (find_orphaned_sandboxes() - before, groups)
        time.sleep(0.05)

    sandbox_server.start()
    with sandbox_server.client() as client:
        assert python(client, "print('again')")["stdout"] == "again\n"
