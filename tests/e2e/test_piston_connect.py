"""Piston's WebSocket on a real server: a program that is followed while it runs."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from socket import SHUT_RDWR
from typing import Any

import aiohttp
import pytest

from tests.support.polling import until
from tests.support.sandbox import find_host_processes
from tests.support.server_process import ServerProcess, command, running_server

DEADLINE_S = 30
LANGUAGES = "bash,c"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    home = tmp_path_factory.mktemp("connect")
    env = {
        "MONKEY_CODER__MODELS__PRELOAD": "false",
        "MONKEY_CODER__SANDBOX__LANGUAGES": LANGUAGES,
        "MONKEY_CODER__SERVER__MAX_BODY_BYTES": "100000",
    }
    with running_server(home / "data", None, **env) as started:
        started.make_key()
        with started.client() as client:
            offer = client.get("/api/v1/sandbox/languages?wait=true").json()
        if not offer["available"]:
            pytest.skip(f"needs sandbox: {offer['problem']}. {offer['remedy']}")
        yield started


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def init(code: str = "echo hello", **fields: Any) -> dict[str, Any]:
    files = [{"content": code}]
    return {"type": "init", "language": "bash", "version": "*", "files": files, **fields}


async def connected(
    system: ServerProcess, client: aiohttp.ClientSession, **headers: str
) -> aiohttp.ClientWebSocketResponse:
    credentials = headers or {"Authorization": f"Bearer {system.key}"}
    return await client.ws_connect(
        f"{system.url}/api/v2/connect", headers=credentials, autoclose=False
    )


async def talk(
    system: ServerProcess,
    client: aiohttp.ClientSession,
    first: dict[str, Any] | str | bytes,
    second: dict[str, Any] | None = None,
) -> tuple[list[dict[str, Any]], int]:
    """The server's messages and its close code; `second` is sent once the program runs."""
    socket = await connected(system, client)
    if isinstance(first, bytes):
        await socket.send_bytes(first)
    else:
        await socket.send_str(first if isinstance(first, str) else json.dumps(first))
    messages: list[dict[str, Any]] = []
    async with asyncio.timeout(DEADLINE_S):
        while (message := await socket.receive()).type is aiohttp.WSMsgType.TEXT:
            messages.append(json.loads(message.data))
            if messages[-1] == {"type": "stage", "stage": "run"} and second is not None:
                await socket.send_json(second)
    await socket.close()
    assert message.type is aiohttp.WSMsgType.CLOSE
    return messages, message.data


async def test_program_when_it_speaks_then_heard_to_its_end(
    system: ServerProcess, client: aiohttp.ClientSession
) -> None:
    code = 'read x; echo "$x $1"; echo careful >&2; exit 3'
    messages, closed = await talk(system, client, init(code, stdin="typed\n", args=["a b"]))

    assert closed == 4999
    assert [each["type"] for each in messages[:2]] == ["runtime", "stage"]
    assert messages[0]["language"] == "bash"
    output = {each["stream"]: each["data"] for each in messages[2:-1]}
    assert output == {"stdout": "typed a b\n", "stderr": "careful\n"}
    assert (messages[-1]["type"], messages[-1]["stage"]) == ("exit", "run")
    assert (messages[-1]["code"], messages[-1]["signal"], messages[-1]["status"]) == (3, None, "RE")


async def test_program_when_it_waits_then_heard_before_its_end(
    system: ServerProcess, client: aiohttp.ClientSession
) -> None:
    socket = await connected(system, client)
    await socket.send_json(init("echo first; sleep 9"))
    messages = [json.loads((await socket.receive()).data) for _ in range(3)]
    await socket.close()

    assert messages[2] == {"type": "data", "stream": "stdout", "data": "first\n"}


async def test_compiler_when_it_fails_then_the_exit_names_its_stage(
    system: ServerProcess, client: aiohttp.ClientSession
) -> None:
    messages, closed = await talk(system, client, init("int main({", language="c"))
    if messages[0]["type"] == "error":
        pytest.skip("needs c: no compiler on this machine")

    assert {"type": "stage", "stage": "compile"} in messages
    assert (messages[-1]["stage"], messages[-1]["code"], closed) == ("compile", 1, 4999)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL", "SIGINT"])
async def test_signal_when_it_ends_a_program_then_it_is_gone(
    name: str, system: ServerProcess, client: aiohttp.ClientSession
) -> None:
    mark = f"signalled-{name}-{os.getpid()}"
    signal = {"type": "signal", "signal": name}
    messages, closed = await talk(system, client, init(f"sleep 9; : {mark}", args=[mark]), signal)

    assert (messages[-1]["signal"], messages[-1]["status"], closed) == ("SIGKILL", "SG", 4999)
    assert name in messages[-1]["message"]
    await until(lambda: not find_host_processes(mark), DEADLINE_S)


LATER: dict[str, tuple[dict[str, Any], int, str]] = {
    "again": (init(), 4000, ""),
    "input": ({"type": "data", "stream": "stdin", "data": "x"}, 4002, "send all input"),
    "another stream": ({"type": "data", "stream": "stdout", "data": "x"}, 4004, ""),
    "no stream": ({"type": "data"}, 4004, ""),
    "no signal": ({"type": "signal", "signal": "SIGNOTHING"}, 4005, ""),
    "odd signal": ({"type": "signal", "signal": ["SIGKILL"]}, 4005, ""),
    "other signal": ({"type": "signal", "signal": "SIGUSR1"}, 4002, "is not supported"),
}


@pytest.mark.parametrize("name", list(LATER))
async def test_message_when_it_can_not_be_then_the_program_ends_and_the_code_says_why(
    name: str, system: ServerProcess, client: aiohttp.ClientSession
) -> None:
    second, code, words = LATER[name]
    mark = f"refused-{name.replace(' ', '-')}-{os.getpid()}"
    messages, closed = await talk(system, client, init(f"sleep 9; : {mark}", args=[mark]), second)

    assert closed == code
    assert messages[-1]["type"] == ("error" if words else "stage")
    assert words in messages[-1].get("message", "")
    await until(lambda: not find_host_processes(mark), DEADLINE_S)


FIRST: dict[str, tuple[dict[str, Any] | str | bytes, int, str]] = {
    "too early": ({"type": "data", "stream": "stdin", "data": ""}, 4003, ""),
    "no type": ({}, 4003, ""),
    "list": ("[]", 4002, "a JSON object"),
    "half": ("{", 4002, "a JSON object"),
    "empty": ("", 4002, "a JSON object"),
    "deep": ("[" * 50_000, 4002, "a JSON object"),
    "no text": (b"\xff", 4002, "a JSON object"),
    "large": (init("x" * 100_001), 4002, "exceeds the limit"),
    "no fields": ({"type": "init"}, 4002, "language: is required"),
    "wrong type": (init(files=[{"content": 3}]), 4002, "files[0].content: Expected"),
    "language": (init(language="cobol"), 4002, "unknown runtime"),
    "limit": (init(run_timeout=99_999), 4002, "run_timeout: 99999"),
    "path": (init(files=[{"name": "../x", "content": ""}]), 4002, "files[0].path"),
}


@pytest.mark.parametrize("name", list(FIRST))
async def test_init_when_it_is_wrong_then_told_and_closed(
    name: str, system: ServerProcess, client: aiohttp.ClientSession
) -> None:
    first, code, words = FIRST[name]
    messages, closed = await talk(system, client, first)

    assert closed == code
    assert [each["type"] for each in messages] == (["error"] if words else [])
    assert all(words in each["message"] for each in messages)


async def test_message_when_its_word_is_a_clients_own_then_passed_over(
    system: ServerProcess, client: aiohttp.ClientSession
) -> None:
    messages, closed = await talk(system, client, init("sleep .3; echo on"), {"type": "ping"})

    assert (messages[-2]["data"], messages[-1]["code"], closed) == ("on\n", 0, 4999)


@pytest.mark.parametrize("how", ["closes", "vanishes"])
async def test_client_when_it_leaves_then_its_program_ends(
    how: str, system: ServerProcess, client: aiohttp.ClientSession
) -> None:
    mark = f"left-{how}-{os.getpid()}"
    socket = await connected(system, client)
    await socket.send_json(init(f"sleep 9; : {mark}", args=[mark]))
    await until(lambda: bool(find_host_processes(mark)), DEADLINE_S)
    if how == "closes":
        await socket.close()
    else:
        socket.get_extra_info("socket").shutdown(SHUT_RDWR)

    await until(lambda: not find_host_processes(mark), 5)
    await socket.close()


async def test_connection_when_the_credentials_are_none_then_refused(
    system: ServerProcess, client: aiohttp.ClientSession
) -> None:
    data = ("--data-dir", system.data_dir)
    words = ("user", "add", "watcher", "--email", "w@example.com", "--role", "viewer")
    command(*words, "--password-stdin", *data, input="a long password\n")
    key = command("key", "create", "--user", "watcher", *data).stdout.strip()
    for headers, status in (
        ({"Accept": "*/*"}, 401),
        ({"Authorization": "Bearer mk-nonsense"}, 401),
        ({"Cookie": f"async_coder_session={system.key}"}, 403),
        ({"X-API-Key": key}, 403),  # a viewer's keys lack the scope `sandbox`
    ):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await connected(system, client, **headers)
        assert refused.value.status == status
