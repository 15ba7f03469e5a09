"""The documentation page in a real browser, which can reach nothing but the server."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.server_process import ServerProcess

TIMEOUT_S = 120
QUIET = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--virtual-time-budget=20000",
]  # fmt: skip


def test_docs_when_opened_then_every_route_is_shown(server: ServerProcess, tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("needs browser: chromium is not on this machine")
    # Only the server has an address: a page that wants another host does not get its parts.
    only_this_host = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    words = [chromium, *QUIET, only_this_host, f"--user-data-dir={tmp_path}", "--dump-dom"]
    done = subprocess.run(
        [*words, f"{server.url}/api/docs"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    for path in ("/api/v1/execute", "/api/v1/auth/login", "/api/v1/tasks/{task_id}", "/health"):
        # The page breaks long paths between their parts.
        assert path in done.stdout.replace("<wbr>", "").replace("\u200b", ""), done.stdout[:2000]
