"""Mutated messages on Piston's WebSocket: the socket is closed with a reason, never by a fault."""

import asyncio
from collections.abc import Iterator

import aiohttp
import pytest

from tests.support import plugin_provider
from tests.support.request_mutations import Mutator, WireRequest
from tests.support.server_process import ServerProcess, running_server
from tests.support.valid_requests import PISTON, ValidRequest

PATH = "/api/v2/connect"
MESSAGES = tuple(
    ValidRequest("GET", PATH, body)
    for body in (
        PISTON | {"type": "init"},
        {"type": "data", "stream": "stdin", "data": "x"},
        {"type": "signal", "signal": "SIGTERM"},
    )
)
INTERNAL_ERROR = 1011
DEADLINE_S = 30.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    home = tmp_path_factory.mktemp("sockets")
    installed = plugin_provider.install(home / "plugins")
    with running_server(home / "data", None, **installed) as server:
        server.make_key()
        server.wait_ready()
        yield server


async def problem_of(
    server: ServerProcess, session: aiohttp.ClientSession, sent: list[WireRequest]
) -> str:
    """What is wrong with the end of a socket that was sent these messages; "" if nothing is."""
    headers = {"Authorization": f"Bearer {server.key}"}
    url = f"{server.url}{PATH}"
    async with asyncio.timeout(DEADLINE_S), session.ws_connect(url, headers=headers) as socket:
        for number, message in enumerate(sent):
            if socket.closed:
                break
            if number % 2:
                await socket.send_bytes(message.body)
            else:
                await socket.send_str(message.body.decode(errors="replace"))
        await socket.send_str("{}")  # refused, if nothing was before
        async for _ in socket:
            pass
        return f"closed with {INTERNAL_ERROR}" if socket.close_code == INTERNAL_ERROR else ""


async def fuzz(server: ServerProcess, seed: int, count: int) -> None:
    mutator = Mutator(f"socket {seed}", MESSAGES)
    found: list[str] = []
    async with aiohttp.ClientSession() as session:
        for _ in range(count):
            sent = list(mutator.mutations(MESSAGES, 3))
            try:
                problem = await problem_of(server, session, sent)
            except (TimeoutError, aiohttp.WSServerHandshakeError) as error:
                problem = repr(error)
            except (aiohttp.ClientError, ConnectionError):
                continue  # closed while something was still to be sent
            if problem:
                found.append(f"{problem}: {[each.body[:2000] for each in sent]}")
    assert not found, "\n".join(found)
    assert "Traceback" not in server.log.read_text()


async def test_socket_when_its_messages_are_mutated_then_no_fault(server: ServerProcess) -> None:
    await fuzz(server, 1, 200)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_socket_when_thousands_of_messages_are_mutated_then_no_fault(
    server: ServerProcess,
) -> None:
    await fuzz(server, 2, 1500)
