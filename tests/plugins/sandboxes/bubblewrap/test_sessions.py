"""Sessions in a real sandbox: what stays between runs, what does not, and hostile workspaces."""

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from msgspec import structs

from appliance.domain.execution import MIB, EndReason, SandboxFile
from appliance.errors import Conflict, InvalidInput, NotFound, PayloadTooLarge, QueueFull
from appliance.sandbox.sessions.archive_index import EntryKind
from tests.support.sandbox import GENEROUS, Backend, find_host_processes
from tests.support.sandbox_sessions import SessionHarness, pieces, read

pytest_plugins = ["tests.support.sandbox_fixtures"]
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def sessions(
    backend: Backend, request: pytest.FixtureRequest
) -> AsyncIterator[SessionHarness]:
    ordinary = "ordinary" in request.node.callspec.id
    home = request.getfixturevalue("ordinary_home") if ordinary else None
    with tempfile.TemporaryDirectory(dir=home) as folder:
        yield SessionHarness(backend, Path(folder, "sessions"))


async def test_workspace_when_a_run_has_ended_then_the_next_one_finds_it_unchanged(
    sessions: SessionHarness,
) -> None:
    session = sessions.open()
    describe = (
        "find . -mindepth 1 ! -type l -printf '%p %y %m %n %T@ %s\\n' | sort; cat h a/b/c; "
        "readlink l dangling"
    )
    script = (
        "mkdir -p a/b empty locked/in; echo content > a/b/c; ln a/b/c h; ln -s /etc/passwd l; "
        "ln -s gone dangling; chmod 751 a/b/c; truncate -s 3M holes; echo end >> holes; "
        "echo x > locked/in/x; chmod 500 locked/in; touch -d @1000000000.123456789 a/b empty; "
    )

    first = await sessions.exec(session, "sh", "-c", script + describe)
    second = await sessions.exec(session, "sh", "-c", describe)

    assert first.ok, first
    assert second.stdout == first.stdout
    assert b"./holes f 644 1 " in second.stdout
    assert (sessions.store.folder(session.record.id) / session.record.archive).stat().st_size < 9000


async def test_process_when_its_run_has_ended_then_it_is_gone(sessions: SessionHarness) -> None:
    session = sessions.open()
    script = "nohup setsid sh -c 'sleep 3000; touch late' >/dev/null 2>&1 &"

    assert (await sessions.exec(session, "sh", "-c", script)).ok

    result = await sessions.exec(session, "sh", "-c", "ls; ls /proc | grep -c '^[0-9]'")
    assert int(result.stdout) <= 4
    assert not find_host_processes("sleep 3000")


async def test_run_when_ended_at_a_limit_then_its_files_are_kept(sessions: SessionHarness) -> None:
    session = sessions.open()
    wall = structs.replace(GENEROUS, wall_s=0.3)
    output = structs.replace(GENEROUS, output_killed_bytes=4096)
    cpu = structs.replace(GENEROUS, cpu_s=0.2)

    ends = [
        await sessions.exec(session, "sh", "-c", "echo 1 > a; trap '' TERM; sleep 60", limits=wall),
        await sessions.exec(session, "sh", "-c", "echo 2 > b; yes", limits=output),
        await sessions.exec(session, "python", "-c", "open('c','w')\nwhile 1: pass", limits=cpu),
    ]

    assert [end.reason for end in ends] == [
        EndReason.WALL_TIME, EndReason.OUTPUT, EndReason.CPU_TIME,
    ]  # fmt: skip
    assert all(end.workspace is not None and end.workspace.saved for end in ends)
    # A busy machine may not have come to write the first one in that time.
    assert {entry.name for entry in await session.list()} >= {"b", "c"}
    assert await read(session, "b") == b"2\n"


async def test_run_when_cancelled_then_the_workspace_is_as_before(
    sessions: SessionHarness,
) -> None:
    session = sessions.open()
    await sessions.exec(session, "sh", "-c", "echo before > file")

    running = asyncio.create_task(
        sessions.exec(session, "sh", "-c", "echo after > file; sleep 4000")
    )
    while not find_host_processes("sleep 4000"):
        await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert not find_host_processes("sleep 4000")
    assert await read(session, "file") == b"before\n"
    assert len(list(sessions.store.folder(session.record.id).iterdir())) == 2


async def test_session_when_closed_while_a_program_runs_then_it_is_killed(
    sessions: SessionHarness,
) -> None:
    status = await sessions.backend.probe()
    assert status.isolation is not None
    session, other = sessions.open(), sessions.open()
    running = asyncio.create_task(sessions.exec(session, "sh", "-c", "sleep 5000"))
    while not find_host_processes("sleep 5000"):
        await asyncio.sleep(0.01)

    waiting = [asyncio.create_task(session.list()) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(QueueFull):
        await session.list()
    if "cgroup_memory" in status.isolation.layers:  # else runs go one at a time
        assert (await sessions.exec(other, "sh", "-c", "echo beside")).stdout == b"beside\n"
    await session.close()

    for task in (running, *waiting):
        with pytest.raises(Conflict, match="closed"):
            await task
    assert not find_host_processes("sleep 5000")
    assert not sessions.store.folder(session.record.id).exists()
    with pytest.raises(Conflict):
        await session.list()


async def test_limits_when_reached_over_several_runs_then_they_hold(
    sessions: SessionHarness,
) -> None:
    session = sessions.open(max_bytes=2 * MIB, max_files=16)

    first = await sessions.exec(session, "sh", "-c", "head -c 1500000 /dev/zero > a")
    second = await sessions.exec(session, "sh", "-c", "head -c 1500000 /dev/zero > b")
    files = await sessions.exec(session, "sh", "-c", "rm b; for n in $(seq 20); do :> f$n; done")

    assert first.ok
    assert b"No space left" in second.stderr
    assert b"No space left" in files.stderr
    assert len(await session.list()) == 16
    with pytest.raises(PayloadTooLarge, match="16 files"):
        await session.put("new", pieces(b""))
    with pytest.raises(PayloadTooLarge, match="content: does not fit"):
        await session.put("f1", pieces(bytes(600_000)))
    assert await session.put("a", pieces(bytes(MIB), bytes(MIB))) == 2 * MIB
    assert (await sessions.exec(session, "sh", "-c", "wc -c < a")).stdout == b"2097152\n"


async def test_files_when_put_then_programs_and_get_see_them(sessions: SessionHarness) -> None:
    session = sessions.open()
    data = bytes(range(256)) * 2000

    await session.put("dir/sub/data", pieces(data[:7], data[7:]))
    await session.put("run.sh", pieces(b"#!/bin/sh\necho old\n"), executable=True)
    await session.put("run.sh", pieces(b"#!/bin/sh\nsha1sum dir/sub/data\n"), executable=True)
    added = (SandboxFile("dir/more", b"1"), SandboxFile("run.sh", b"#!/bin/sh\necho 2", True))
    first = await sessions.exec(session, "./run.sh")
    second = await sessions.exec(session, "./run.sh", files=added)

    assert first.stdout.split()[0].decode() == hashlib.sha1(data).hexdigest()
    assert second.stdout == b"2\n"
    assert await read(session, "dir/sub/data") == data
    assert [(e.name, e.kind, e.size) for e in await session.list("dir")] == [
        ("more", EntryKind.FILE, 1),
        ("sub", EntryKind.FOLDER, 0),
    ]
    assert [e.name for e in await session.list() if e.executable] == ["run.sh"]


HOSTILE = """
import os, socket
os.symlink('/etc', 'etc'); os.symlink('/etc/shadow', 'shadow'); os.symlink('..', 'up')
os.symlink('loop', 'loop'); os.mkfifo('fifo'); socket.socket(socket.AF_UNIX).bind('socket')
os.truncate(os.open('huge', os.O_CREAT | os.O_WRONLY), 8 << 20)
os.truncate(os.open('huge2', os.O_CREAT | os.O_WRONLY), 8 << 20)
open(b'\\xff\\xfe', 'w'); open('new\\nline', 'w').write('n')
open('secret', 'w').write('s'); os.chmod('secret', 0)
os.mkdir('dark'); open('dark/x', 'w').write('d'); os.chmod('dark', 0)
for name in ('a' * 200,) * 7: os.mkdir(name); os.chdir(name)
"""


async def test_workspace_when_hostile_then_only_its_own_files_are_read_and_written(
    sessions: SessionHarness,
) -> None:
    session = sessions.open()

    result = await sessions.exec(session, "python", "-c", HOSTILE)

    assert result.workspace is not None
    assert result.workspace.saved
    assert len(result.workspace.refused) == 4  # fifo, socket, a name, a path
    kinds = {entry.name: entry.kind for entry in await session.list()}
    assert {name for name, kind in kinds.items() if kind is EntryKind.LINK} == {
        "etc", "shadow", "up", "loop",
    }  # fmt: skip
    assert {"fifo", "socket"}.isdisjoint(kinds)
    for path in ("shadow", "loop", "etc", "dark"):
        with pytest.raises(InvalidInput, match="not a file"):
            await session.get(path)
    for path in ("etc/passwd", "up/x", "fifo"):
        with pytest.raises(NotFound):
            await session.get(path)
    for path in ("etc/new", "up/new", "loop/new", "secret/new", "dark"):
        with pytest.raises(InvalidInput, match="folder"):
            await session.put(path, pieces(b"x"))
    for path in ("../x", "/etc/passwd", "a/../../x", "", "dark/"):
        with pytest.raises(InvalidInput):
            await session.put(path, pieces(b"x"))
    assert await session.put("shadow", pieces(b"mine")) == 4
    assert (await read(session, "secret"), await read(session, "dark/x")) == (b"s", b"d")
    assert await read(session, "huge") == bytes(8 << 20)
    assert (await sessions.exec(session, "sh", "-c", "cat shadow; stat -c %a dark")).stdout == (
        b"mine0\n"
    )
