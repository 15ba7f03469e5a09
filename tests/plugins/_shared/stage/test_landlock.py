"""Landlock around each program: what it alone refuses, and what goes on all the same."""

import pytest

from appliance.domain.execution import RunRequest
from plugins._shared import landlock
from plugins._shared.stage import landlock_probe
from tests.support.sandbox import GENEROUS, Backend, files, run_python

pytest_plugins = ["tests.support.sandbox_fixtures"]
pytestmark = pytest.mark.asyncio(loop_scope="module")

VERSION = landlock.version()

_ALLOWED = """
import multiprocessing, os, socket, subprocess
os.makedirs("a/b"); os.makedirs("c")
open("a/b/file", "w").write("text"); os.rename("a/b/file", "c/file"); os.link("c/file", "a/file")
os.truncate("c/file", 2); os.symlink("file", "c/link"); os.mkfifo("pipe"); os.remove("a/file")
print(open("c/link").read(), sorted(os.listdir(".")))
for place in ("/tmp/x", "/dev/shm/x", "/var/tmp/y", "/dev/null"):
    open(place, "w").write("written\\n")
print(len(os.urandom(4)), open("/dev/zero", "rb").read(2))
for name in ("/tmp/socket", "\\0abstract"):
    server, client = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    server.bind(name); server.listen(); client.connect(name)
child = subprocess.Popen(["sleep", "60"]); child.terminate(); print(child.wait())
print(subprocess.run(["./script"], capture_output=True, text=True).stdout)
if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(1) as pool: print(pool.map(abs, [-1]))
"""

_SERVES_ITSELF = """
import socket, threading
for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    server = socket.create_server((host, 0), family=family)
    threading.Thread(target=lambda: server.accept()[0].sendall(b"here"), daemon=True).start()
    with socket.create_connection(server.getsockname()[:2], 5) as client:
        print(client.recv(4))
"""


@pytest.mark.skipif(VERSION < 2, reason="needs landlock: version 2")
async def test_program_on_a_kernel_with_landlock_is_under_it(backend: Backend):
    refused = await run_python(backend, landlock_probe.PROGRAM)
    status = await backend.probe()

    assert status.isolation
    layers, degraded = landlock_probe.proven_layers(refused.stdout)
    assert layers[0] == "landlock"
    assert ("landlock_signals" in layers) == (VERSION >= 6)
    assert not degraded
    assert set(layers) <= set(status.isolation.layers)


async def test_program_serves_and_asks_itself_over_tcp_when_it_likes(backend: Backend):
    result = await run_python(backend, _SERVES_ITSELF)

    assert result.stdout == b"b'here'\n" * 2


async def test_what_programs_do_with_files_and_processes_is_allowed(backend: Backend):
    given = files(script="#!/bin/sh\necho ran\n", main__py=_ALLOWED)
    script = type(given[0])("script", given[0].content, executable=True)
    request = RunRequest(("python", "main.py"), (script, given[1]), limits=GENEROUS)

    result = await backend.run(request)

    assert result.stderr == b""
    assert [line for line in result.stdout.decode().splitlines() if line] == [
        "te ['a', 'c', 'main.py', 'pipe', 'script']",
        r"4 b'\x00\x00'",
        "-15",
        "ran",
        "[1]",
    ]


async def test_proof_where_files_are_not_refused_tells_what_is_lacking():
    layers, degraded = landlock_probe.proven_layers(
        b'{"files":false,"network":true,"signals":true}'
    )

    assert layers == ()
    assert "no Landlock" in degraded[0]
