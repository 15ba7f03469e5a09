"""The servers that are attacked: one runs as root, one as an ordinary user."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.escape import ORDINARY, ROOT, RUN, Probe, outcome, program, unconfined
from tests.support.escape_traces import HOME
from tests.support.server_process import GENEROUS, PROGRAM, ServerProcess, share_sandbox_python

_UID = 64_997
_SETTINGS = {
    "SANDBOX__BACKEND": "bubblewrap",
    "SANDBOX__LANGUAGES": "bash,node",
    "SANDBOX__PARALLEL_RUNS": "2",
    "SANDBOX__QUEUE_LIMIT": "16",
    "SANDBOX__QUEUE_PER_USER": "16",
    "MODELS__PRELOAD": "false",
}


@dataclass
class Target:
    """A running server. `uid` is its user, None for the user of the tests."""

    server: ServerProcess
    client: httpx.Client
    uid: int | None = None
    facts: dict[str, Any] = field(default_factory=dict[str, Any])

    def run(self, **body: Any) -> dict[str, Any]:
        """The answer to a run."""
        answer = self.client.post(RUN, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def python(self, code: str, **more: Any) -> dict[str, Any]:
        return self.run(argv=["python", "-c", code], **more)

    def attack(self, probe: Probe) -> tuple[str, list[str]]:
        """What the probe printed in the sandbox, and the layers that the answer claims."""
        answer = self.run(**program(probe, self.facts))
        return outcome(answer), answer["isolation"]["layers"]

    def require_stopped(self, probe: Probe) -> None:
        """Fails unless a layer stops the probe and the answer lists that layer."""
        output, layers = self.attack(probe)
        assert output in probe.stopped, output
        assert probe.stopped[output] in layers, (output, layers)

    def require_passes_unconfined(self, probe: Probe) -> None:
        """Fails if something stops the probe without the sandbox."""
        output = self.unconfined(probe)
        assert output not in probe.stopped, output

    def unconfined(self, probe: Probe) -> str:
        """What it prints as the same ordinary user without the sandbox."""
        assert self.uid or os.geteuid() != 0
        python = next((self.server.data_dir / "sandbox-python").glob("*/bin/python3"))
        done = unconfined(probe, self.facts, str(python), self.uid)
        if done.stderr.startswith("unshare:"):
            pytest.skip(
                f"needs sandbox: this machine makes no throw-away namespaces: {done.stderr}"
            )
        if done.returncode < 0:
            return f"signal {-done.returncode}"
        return done.stdout.strip() or done.stderr

    @property
    def privileged(self) -> bool:
        """Whether the service is root."""
        return self.uid is None and os.geteuid() == 0


@contextmanager
def attacked_server(kind: str) -> Generator[Target, None, None]:
    """A started server of this user; skips if the tests can't start one."""
    if kind == ROOT and os.geteuid() != 0:
        pytest.skip("needs root: a service of root is attacked only by tests that run as root")
    uid = _UID if kind == ORDINARY and os.geteuid() == 0 else None
    with TemporaryHome() as home:
        server = prepare(home, uid)
        try:
            with server.start().client() as client:
                offer = client.get("/api/v1/sandbox/languages?wait=true").json()
                if not offer["available"]:
                    pytest.skip(f"needs sandbox: {offer['problem']}")
                # What waits for runs from now on is there before anybody looks at what is.
                for words in ("python", "-c", ""), ("node", "-e", ""), ("sh", "-c", ""):
                    client.post(RUN, json={"argv": words})
                yield Target(server, client, uid, facts_about(server))
        finally:
            server.stop()


class TemporaryHome:
    """A temporary folder that every user may enter."""

    def __enter__(self) -> Path:
        self.path = Path(tempfile.mkdtemp(prefix=HOME))
        self.path.chmod(0o755)
        return self.path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path)


def prepare(home: Path, uid: int | None) -> ServerProcess:
    """A server that is not started; it and its data belong to `uid`, or to our user."""
    data = home / "data"
    env = {**GENEROUS, **{f"MONKEY_CODER__{name}": value for name, value in _SETTINGS.items()}}
    if uid is None:
        share_sandbox_python(data)
        return ServerProcess(data, env)
    share_sandbox_python(data, copy=shutil.copy2)
    for path in (home, *home.rglob("*")):
        os.chown(path, uid, uid, follow_symlinks=False)
    program = [PROGRAM[0], "-m", "tests.support.ordinary_user", str(uid), *PROGRAM]
    return ServerProcess(data, {**env, "HOME": str(home)}, program)


def facts_about(server: ServerProcess) -> dict[str, Any]:
    """What an attacker may know about the service."""
    assert server.process is not None
    return {
        "pid": server.process.pid,
        "server_port": int(server.url.rpartition(":")[2]),
        "data_dir": str(server.data_dir),
        "database": str(next(server.data_dir.glob("*.db"))),
        "log": str(server.log),
        "namespaces": _namespaces(),
        "devices": _devices(),
        "addresses": _own_addresses(),
    }


def _namespaces() -> dict[str, str]:
    """The tests' own, which are the service's too."""
    return {path.name: str(path.readlink()) for path in Path("/proc/self/ns").iterdir()}


def _devices() -> list[str]:
    harmless = {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "console"}
    found: list[str] = []
    for path in Path("/dev").iterdir():
        with contextlib.suppress(OSError):
            special = not path.is_symlink() and (path.is_block_device() or path.is_char_device())
            if special and path.name not in harmless and not path.name.startswith("tty"):
                found.append(str(path))
    return sorted(found)


def _own_addresses() -> list[str]:
    """The machine's own addresses beside the loopback's."""
    done = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=False)
    return done.stdout.split()
