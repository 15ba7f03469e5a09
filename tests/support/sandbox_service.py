"""A sandbox backend in a process of its own, which may be another user's.

Frames on stdin and stdout: a length (4 bytes, big-endian) and a msgpack array
[id, kind, payload]. Requests: run (a RunRequest), cancel (an id), probe. Replies:
result, status, or error ([class of the error, message]); one reply per request.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

import msgspec
from msgspec import structs

from appliance import processes
from appliance.domain.execution import RunRequest
from appliance.errors import ApplianceError
from appliance.spi.registry import NoModels, PluginContext
from plugins.sandboxes.bubblewrap.backend import Bubblewrap


def plugin_context(python: Path, runtime_dir: Path) -> PluginContext:
    return PluginContext(
        data_dir=runtime_dir / "data",
        runtime_dir=runtime_dir,
        settings={},
        models=NoModels(),
        child_argv=processes.child_argv,
        host_env=dict,
        child_env=processes.child_env,
        sandbox_python=lambda: python,
    )


async def read_frame(reader: asyncio.StreamReader) -> Any:
    """The next frame; None at the end."""
    try:
        size = int.from_bytes(await reader.readexactly(4), "big")
        return msgspec.msgpack.decode(await reader.readexactly(size))
    except asyncio.IncompleteReadError:
        return None


def encode_frame(value: Any) -> bytes:
    data = msgspec.msgpack.encode(value)
    return len(data).to_bytes(4, "big") + data


class Service:
    def __init__(self, backend: Bubblewrap) -> None:
        self._backend = backend
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def serve(self, reader: asyncio.StreamReader) -> None:
        while (message := await read_frame(reader)) is not None:
            number, kind, payload = message
            if kind == "cancel":
                self._tasks[payload].cancel()
            else:
                self._tasks[number] = asyncio.create_task(self._reply(number, kind, payload))
                await asyncio.sleep(0)  # it starts before it may be cancelled
        await self._backend.close()

    async def _reply(self, number: int, kind: str, payload: Any) -> None:
        try:
            if kind == "probe":
                reply: list[Any] = [number, "status", await self._backend.probe()]
            else:
                request = msgspec.convert(payload, RunRequest)
                reply = [number, "result", await self._backend.run(request)]
        except ApplianceError as error:
            reply = [number, "error", [type(error).__name__, error.message]]
        except asyncio.CancelledError:
            reply = [number, "error", ["CancelledError", ""]]
        sys.stdout.buffer.write(encode_frame(reply))
        sys.stdout.buffer.flush()


async def main() -> None:
    reader = asyncio.StreamReader(limit=1 << 30)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
    python, runtime_dir, *launcher = sys.argv[1:]
    context = plugin_context(Path(python), Path(runtime_dir))
    if launcher:
        argv = [sys.executable, "-c", *launcher]

        def child_argv(_module: str) -> list[str]:
            return argv

        context = structs.replace(context, child_argv=child_argv)
    await Service(Bubblewrap(context)).serve(reader)


if __name__ == "__main__":
    asyncio.run(main())
