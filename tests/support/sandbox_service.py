"""A sandbox backend in a process of its own, so that it can run as another user.

Frames on stdin and stdout: a length (4 bytes, big-endian) and a msgpack array
[id, what, payload]. Asked: run (a RunRequest), cancel (an id), probe. Answered:
result, status, or error ([class of the error, message]); one answer per question.
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


def frame(value: Any) -> bytes:
    data = msgspec.msgpack.encode(value)
    return len(data).to_bytes(4, "big") + data


class Service:
    def __init__(self, backend: Bubblewrap) -> None:
        self._backend = backend
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def serve(self, reader: asyncio.StreamReader) -> None:
        while (question := await read_frame(reader)) is not None:
            number, what, payload = question
            if what == "cancel":
                self._tasks[payload].cancel()
            else:
                self._tasks[number] = asyncio.create_task(self._answer(number, what, payload))
                await asyncio.sleep(0)  # it begins before it may be cancelled
        await self._backend.close()

    async def _answer(self, number: int, what: str, payload: Any) -> None:
        try:
            if what == "probe":
                answer: list[Any] = [number, "status", await self._backend.probe()]
            else:
                request = msgspec.convert(payload, RunRequest)
                answer = [number, "result", await self._backend.run(request)]
        except ApplianceError as error:
            answer = [number, "error", [type(error).__name__, error.message]]
        except asyncio.CancelledError:
            answer = [number, "error", ["CancelledError", ""]]
        sys.stdout.buffer.write(frame(answer))
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
