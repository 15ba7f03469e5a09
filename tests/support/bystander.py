"""A well-behaved user, who chats and runs code while somebody else attacks the server."""

import math
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.support.polling import wait_until
from tests.support.server_process import ServerProcess, command

ADDRESS = "198.51.100.7"
PASSWORD = "a password of the bystander"
CHAT: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Name a colour."}],
    "max_tokens": 8,
    "cache": False,
}
RUN: dict[str, Any] = {"language": "python", "code": "print(6 * 7)"}
KINDS = {"chat": ("/v1/chat/completions", CHAT), "run": ("/api/v1/sandbox/run", RUN)}
DEADLINE_S = 60.0
PAUSE_S = 0.05
SETTLED_S = 15.0
# The aim is 0.05 s; this allows for a machine that runs other tests as well.
GENEROUS_S = 4.0


def add_user(server: ServerProcess, name: str) -> str:
    """Make an account; returns a key of it."""
    folder = ("--data-dir", server.data_dir)
    mail = ("--email", f"{name}@example.com")
    command("user", "add", name, *mail, "--password-stdin", *folder, input=f"{PASSWORD}\n")
    return command("key", "create", "--user", name, *folder).stdout.strip()


@dataclass(frozen=True)
class Answer:
    kind: str
    status: int
    seconds: float
    text: str


class Bystander:
    """Sends one request of each kind at a time, for as long as it is entered."""

    def __init__(self, server: ServerProcess, key: str) -> None:
        self.answers: list[Answer] = []
        self._server = server
        self._headers = {"Authorization": f"Bearer {key}", "X-Forwarded-For": ADDRESS}
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._repeat, args=(kind,)) for kind in KINDS]

    def __enter__(self) -> "Bystander":
        for thread in self._threads:
            thread.start()
        self.wait_for_answers(2)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for_answers(self, count: int) -> None:
        """Until `count` more answers of each kind have come."""
        seen = len(self.answers)
        wait_until(
            lambda: all(
                sum(answer.kind == kind for answer in self.answers[seen:]) >= count
                for kind in KINDS
            ),
            2 * DEADLINE_S,
        )

    def ask(self, client: httpx.Client, kind: str) -> Answer:
        path, body = KINDS[kind]
        started = time.monotonic()
        try:
            answer = client.post(path, json=body)
            status, text = answer.status_code, answer.text
        except httpx.TransportError as error:
            status, text = 0, repr(error)
        return Answer(kind, status, time.monotonic() - started, text)

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self._server.url, headers=self._headers, timeout=DEADLINE_S)

    def _repeat(self, kind: str) -> None:
        with self.client() as client:
            while not self._stop.is_set():
                self.answers.append(self.ask(client, kind))
                self._stop.wait(PAUSE_S)


def p99(answers: list[Answer], kind: str) -> float:
    """Of the answers' times, in seconds; 0 without answers."""
    times = sorted(answer.seconds for answer in answers if answer.kind == kind)
    return times[math.ceil(0.99 * len(times)) - 1] if times else 0.0


def process_tree(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for each in found:
        try:
            threads = list(Path(f"/proc/{each}/task").iterdir())
            children = [child for thread in threads for child in _children(thread)]
        except OSError:
            continue
        found += children
    return found


def _children(thread: Path) -> list[int]:
    return [int(pid) for pid in (thread / "children").read_text().split()]


def resident_bytes(server: ServerProcess) -> int:
    """Memory of all of a server's processes, without mapped files."""
    assert server.process is not None
    total = 0
    for pid in process_tree(server.process.pid):
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))
    return total * 1024


@contextmanager
def under_attack(
    server: ServerProcess, key: str, *, timed: bool = False
) -> Generator[Bystander, None, None]:
    """The body is the attack; afterwards the user has been served, and all is normal again.

    Prints the user's times before and during the attack. With `timed` those during the attack are
    near the fair share: half the machine, since there are two users.
    """
    with Bystander(server, key) as user:
        before, memory = list(user.answers), resident_bytes(server)
        yield user
        user.wait_for_answers(1)
    during = user.answers[len(before) :]
    refused = [answer for answer in user.answers if answer.status != 200]
    assert not refused, (refused, server.log.read_text()[-5000:])
    for kind in KINDS:
        alone, shared = p99(before, kind), p99(during, kind)
        print(f"{kind}: p99 {alone:.3f} s before, {shared:.3f} s during the attack")
        assert not timed or shared <= 2 * alone + GENEROUS_S, user.answers
    wait_until(lambda: httpx.get(f"{server.url}/health/readiness").status_code == 200, SETTLED_S)
    with user.client() as client:
        assert user.ask(client, "chat").status == 200
    wait_until(lambda: resident_bytes(server) <= 1.5 * memory, SETTLED_S)
    print(f"memory: {memory >> 20} MiB before, {resident_bytes(server) >> 20} MiB after")
