"""The session service over a real sandbox: programs with their events, files, permissions."""

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance.config.settings import SandboxSettings, Settings
from appliance.domain.execution import SandboxFile
from appliance.domain.users import Role
from appliance.errors import Forbidden, NotFound
from appliance.sandbox.runner import SandboxRunner
from appliance.sandbox.sessions.manager import SessionManager
from appliance.services.sandbox.programs import Program
from appliance.services.sandbox.run_events import Finished, Output, Queued, Started
from appliance.services.sandbox.service import SandboxService
from appliance.services.sandbox.sessions import SessionService
from appliance.store.sqlite.database import Database
from plugins.sandboxes.bubblewrap.backend import Bubblewrap
from tests.services.sandbox.test_service import principal
from tests.support.sandbox_service import plugin_context
from tests.support.sandbox_sessions import pieces

pytest_plugins = ["tests.support.sandbox_fixtures"]

SETTINGS = SandboxSettings(wall_s=60, cpu_s=30, languages=("sh",))
ALICE, BOB = principal(), principal(number=2)


@pytest.fixture
async def service(sandbox_python: Path, db: Database) -> AsyncIterator[SessionService]:
    with tempfile.TemporaryDirectory() as folder:
        backend = Bubblewrap(plugin_context(sandbox_python, Path(folder)))
        runner = SandboxRunner({"bubblewrap": backend}, SETTINGS)
        await runner.start()
        manager = SessionManager(runner, Path(folder), SETTINGS)
        await manager.start()
        sandbox = SandboxService(runner, Settings(sandbox=SETTINGS), db)
        yield SessionService(sandbox, manager)
        await manager.stop()
        await runner.close()


async def test_session_when_used_then_programs_share_its_files_and_their_events_come(
    service: SessionService,
) -> None:
    session = await service.open(ALICE)
    await service.put(ALICE, session.id, "data/n", pieces(b"4", b"1"))
    main = SandboxFile("main.py", b"n = int(open('data/n').read()) + 1\nprint(n)")
    program = Program(language="python", files=(main,))

    events = [event async for event in service.exec_events(ALICE, session.id, program)]
    again = await service.exec(
        ALICE, session.id, Program(argv=("sh", "-c", "python main.py > out; ls"))
    )
    got = b"".join([piece async for piece in await service.get(ALICE, session.id, "out")])

    output = b"".join(event.data for event in events if isinstance(event, Output))
    assert isinstance(events[0], Queued)
    assert isinstance(events[1], Started)
    assert isinstance(events[-1], Finished)
    assert output == got == b"42\n"
    assert again.run.stdout == b"data\nmain.py\nout\n"
    assert [entry.name for entry in await service.list_folder(ALICE, session.id, "data")] == ["n"]
    record = service.describe(ALICE, session.id)
    assert (record.files, record.content_bytes) == (4, 3 * 4096)
    assert service.list_sessions(ALICE) == (record,)
    await service.close(ALICE, session.id)
    assert service.list_sessions(ALICE) == ()


async def test_session_when_of_another_user_or_without_the_scope_then_refused(
    service: SessionService,
) -> None:
    session = await service.open(ALICE)
    program = Program(argv=("sh", "-c", "ls"))

    for stranger, error in ((BOB, NotFound), (principal(Role.VIEWER), Forbidden)):
        with pytest.raises(error):
            await service.exec(stranger, session.id, program)
        with pytest.raises(error):
            await service.put(stranger, session.id, "x", pieces(b""))
        with pytest.raises(error):
            await service.get(stranger, session.id, "x")
        with pytest.raises(error):
            await service.list_folder(stranger, session.id)
        with pytest.raises(error):
            await service.close(stranger, session.id)
    with pytest.raises(Forbidden):
        await service.open(principal(Role.VIEWER))
    assert len(service.list_sessions(ALICE)) == 1
