"""A real server in a process of its own, as an administrator would start it."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from appliance.sandbox.python import runtime

PROGRAM = [sys.executable, "-m", "appliance"]
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 40.0
GENEROUS = {
    "MONKEY_CODER__AUTH__DEV_KEYS": "true",
    "MONKEY_CODER__LIMITS__REQUESTS_PER_MINUTE": "100000",
    "MONKEY_CODER__LIMITS__BURST": "10000",
    # Trying every compiler takes seconds of each start.
    "MONKEY_CODER__SANDBOX__LANGUAGES": "python",
}


def clean_env(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The test's environment without anything that would configure a server."""
    inherited = {n: v for n, v in os.environ.items() if not n.startswith("MONKEY_CODER")}
    return inherited | {"PYTHONUNBUFFERED": "1"} | dict(extra or {})


def command(
    *words: str | Path, check: bool = True, **options: Any
) -> "subprocess.CompletedProcess[str]":
    """Run one command of `monkey-coder` to its end."""
    return subprocess.run(
        [*PROGRAM, *map(str, words)],
        env=clean_env(options.pop("env", None)),
        capture_output=True,
        text=True,
        timeout=options.pop("timeout", 120),
        check=check,
        **options,
    )


@dataclass
class ServerProcess:
    """A server process on a data directory; it can be killed and started again."""

    data_dir: Path
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    program: list[str] = field(default_factory=lambda: list(PROGRAM))
    process: "subprocess.Popen[bytes] | None" = None
    url: str = ""
    key: str = ""

    @property
    def log(self) -> Path:
        return self.data_dir.with_name(self.data_dir.name + ".log")

    def start(self) -> "ServerProcess":
        address = self.data_dir / "run" / "server.json"
        address.unlink(missing_ok=True)
        words = [*self.program, "serve", "--data-dir", str(self.data_dir), "--port", "0"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(words, env=clean_env(self.env), stdout=log, stderr=log)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not address.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the server did not start:\n{self.log.read_text()}")
            time.sleep(0.02)
        self.url = json.loads(address.read_text())["url"]
        return self

    def make_key(self) -> str:
        """A development key, as the documents' quick start gets one."""
        answer = httpx.post(f"{self.url}/api/v1/auth/keys/dev")
        assert answer.status_code in (200, 201), answer.text
        self.key = answer.json()["key"]
        return self.key

    def client(self, key: str | None = None, **options: Any) -> httpx.Client:
        """A client that authenticates; closed by the caller."""
        headers = {"Authorization": f"Bearer {key or self.key or self.make_key()}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=180, **options)

    def wait_ready(self, timeout_s: float = 90) -> None:
        """Until the store and the default model are ready."""
        deadline = time.monotonic() + timeout_s
        while httpx.get(f"{self.url}/health/readiness").status_code != 200:
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def kill(self) -> None:
        """kill -9, and nothing else."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; returns the exit status, 0 for a server that never started."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_TIMEOUT_S)


@contextmanager
def running_server(
    data_dir: Path, model: Path | None = None, **env: str
) -> Generator[ServerProcess, None, None]:
    """A started server, with `model` as its default; stopped at the end.

    Its sandbox's Python is linked from the one that all tests share.
    """
    share_sandbox_python(data_dir)
    if model is not None:
        command("model", "add", model, "--in-place", "--alias", "model", "--data-dir", data_dir)
    server = ServerProcess(data_dir, {**GENEROUS, **env})
    try:
        yield server.start()
    finally:
        server.stop()


def share_sandbox_python(data_dir: Path, copy: Callable[[str, str], object] = os.link) -> None:
    """Put the Python that all tests share into a data directory that is not there yet."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    prepared = runtime.ensure_runtime(cache / "monkey-coder-tests")
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    target = data_dir / "sandbox-python" / prepared.name
    # Where it can't be linked, the server makes its own.
    with contextlib.suppress(OSError, shutil.Error):
        shutil.copytree(prepared, target, symlinks=True, copy_function=copy)
        return
    shutil.rmtree(target, ignore_errors=True)
