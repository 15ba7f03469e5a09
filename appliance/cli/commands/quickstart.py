"""`monkey-coder quickstart`: one verified task in one command."""

import secrets
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import click
import httpx

from appliance import telemetry
from appliance.cli.commands.serve import serving, stop_signal
from appliance.cli.support import task_output
from appliance.cli.support.api_client import ApiClient, error_from_response
from appliance.cli.support.instance import (
    data_dir,
    instance_flags,
    load_instance,
    open_database,
    run_async,
)
from appliance.cli.support.progress import ProgressLine
from appliance.config.loader import Loaded
from appliance.config.settings import LogSettings
from appliance.models.registry import STARTER, ModelRegistry
from appliance.server import HttpServer

_FOLDER = Path("monkey-coder-data")
_NOT_VERIFIED = 1
_KEY_TIMEOUT_S = 30.0
_PROMPT = """Write a Python function is_even(n) that tells whether an integer is even.

>>> is_even(4)
True
>>> is_even(7)
False
"""
_BETTER_MODELS = """\
It is a very small model: it shows that everything works, and is no good programmer.
Better ones, as GGUF files, by the memory that this machine has for them:

   4 GB   Qwen2.5-Coder-1.5B-Instruct    Q4_K_M
   8 GB   Qwen2.5-Coder-7B-Instruct      Q4_K_M
  16 GB   Qwen2.5-Coder-14B-Instruct     Q4_K_M
  32 GB   Qwen3-Coder-30B-A3B-Instruct   Q4_K_M

Add one with: monkey-coder model add FILE --default --data-dir {folder}
"""


@click.command(epilog="Exit status with --once: 0 only if the answer was verified.")
@instance_flags
@click.option("--once", is_flag=True, help="End after the task instead of serving on.")
@click.option(
    "--model",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Use this GGUF file instead of the starter model.",
)
def command(
    config_file: Path | None, data_dir: Path | None, once: bool, model: Path | None
) -> None:
    """See it work: a local model writes code, the sandbox verifies it.

    Makes ./monkey-coder-data, fetches a small model into it, serves on a free port of
    this machine only, and runs one real task over HTTP.
    """
    flags = {"server.host": "127.0.0.1", "server.port": 0, "auth.dev_keys": True}
    loaded = load_instance(config_file, data_dir or _FOLDER, flags)
    telemetry.configure_logging(LogSettings(level="warning", format=loaded.settings.log.format))
    file = str(model.absolute()) if model else None
    sys.exit(run_async(_quickstart(loaded, file, once=once)))


async def _quickstart(loaded: Loaded, model: str | None, *, once: bool) -> int:
    folder = data_dir(loaded.settings)
    click.echo(f"Monkey Coder keeps all files of this trial in {folder}\n")
    if await _ensure_model(loaded, model):
        click.echo(_BETTER_MODELS.format(folder=folder))
    stop = stop_signal()
    async with serving(loaded.settings) as (_, server):
        click.echo(f"Serving at {server.url} (this machine only)\n")
        key = await _create_key(server)
        answer = await _run_task(server, key)
        verified = answer is not None and task_output.is_verified(answer)
        if not once:
            click.echo(_next_steps(server, key))
            await stop.wait()
    return 0 if verified or not once else _NOT_VERIFIED


async def _ensure_model(loaded: Loaded, model: str | None) -> bool:
    """Register the model as the default; True if it is the starter model."""
    progress = ProgressLine()
    async with open_database(loaded) as database:
        registry = ModelRegistry(database, data_dir(loaded.settings))
        known = {item.source: item.alias for item in await registry.list()}
        try:
            if model in known:
                await registry.set_default(known[model])
            elif model is not None:
                await registry.add(model, None, True, progress, in_place=True)
            elif not known:
                await registry.add(
                    STARTER.source, STARTER.alias, progress=progress, sha256=STARTER.sha256
                )
        finally:
            progress.end()
        default = await registry.default()
    return default is not None and default.sha256 == STARTER.sha256


async def _create_key(server: HttpServer) -> str:
    """A development key, requested over HTTP as any local client may while they are enabled."""
    async with httpx.AsyncClient(trust_env=False, timeout=_KEY_TIMEOUT_S) as client:
        answer = await client.post(f"{server.url}/api/v1/auth/keys/dev")
    if answer.is_error:
        raise error_from_response(answer.status_code, answer.content)
    return str(answer.json()["key"])


async def _run_task(server: HttpServer, key: str) -> Mapping[str, Any] | None:
    """Run one task over HTTP and print its steps; the answer, or None if it failed."""
    click.echo("POST /api/v1/execute/stream\n")
    click.echo("\n".join(f"  | {line}" for line in _PROMPT.rstrip().splitlines()) + "\n")
    client = ApiClient(server.url, key)
    try:
        async with aclosing(_first_task(client)) as frames:
            async for frame in frames:
                if line := task_output.format_frame(frame):
                    click.echo(line)
                if frame["type"] == "error":
                    click.echo(f"error: {frame['error']['message']}", err=True)
                if frame["type"] == "complete":
                    _print_answer(frame["data"])
                    return frame["data"]
    finally:
        await client.close()
    return None


def _first_task(client: ApiClient) -> AsyncGenerator[dict[str, Any], None]:
    task_id = f"task_{secrets.token_hex(12)}"
    return client.run({"task_id": task_id, "prompt": _PROMPT, "persona": "developer"})


def _print_answer(answer: Mapping[str, Any]) -> None:
    code = task_output.printable(str(answer["result"].get("code") or answer["result"]["result"]))
    click.echo("\n" + "\n".join(f"    {line}" for line in code.splitlines()) + "\n")
    click.echo("\n".join(task_output.summary_lines(answer)) + "\n")


def _next_steps(server: HttpServer, key: str) -> str:
    auth = f'-H "Authorization: Bearer {key}"'
    task = '{"task": "Write add(a, b). add(2, 3) == 5"}'
    post = f"-H 'Content-Type: application/json' -d '{task}'"
    return "\n".join(
        [
            "Now it is yours. In another terminal:",
            "",
            f"curl -s {auth} {server.url}/api/v1/models",
            f"curl -s {auth} {post} {server.url}/api/v1/execute",
            f"curl -sN {auth} {post} {server.url}/api/v1/execute/stream",
            "",
            f"Every route: {server.url}/api/docs. Ctrl-C ends it.",
        ]
    )
