"""`monkey-coder task`: gives a running server a coding task."""

import asyncio
import json
import os
import secrets
import sys
from collections.abc import Mapping
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import click
import httpx
from msgspec import Struct

from appliance.cli.support import answer_files, task_output
from appliance.cli.support.api_client import ApiClient, find_key, find_url
from appliance.cli.support.instance import instance_options, run_async
from appliance.config.loader import Loaded
from appliance.domain.tasks import CollapseStrategy, Persona, TaskType
from appliance.errors import InvalidInput

_NOT_COMPLETED, _NOT_VERIFIED = 1, 3
_MAX_FILE = 4 * 1024 * 1024

_EPILOG = """\b
Examples:
  monkey-coder task run "write fizzbuzz(n) with doctests"
  monkey-coder task run "make the tests pass" --file app.py --test test_app.py --out . --stream
  git diff | monkey-coder task run - --task-type code_review

\b
The key comes from --key-file, MONKEY_CODER_API_KEY_FILE or MONKEY_CODER_API_KEY; the
address from --url, MONKEY_CODER_URL, or the server that runs in the data directory.

\b
Exit status: 0 the task completed; 1 it failed, was cancelled or refused; 2 wrong usage;
3 with --verified, the answer did not pass its checks; 130 Ctrl-C, which cancels the task.
"""

_path = click.Path(exists=True, dir_okay=False, path_type=Path)


class _OutputOptions(Struct, frozen=True):
    """`stream` prints each step, `as_json` prints JSON instead of text."""

    stream: bool
    as_json: bool


@click.group()
def command() -> None:
    """Give a running server a coding task."""


@command.command(epilog=_EPILOG)
@click.argument("prompt")
@instance_options
@click.option("--file", "files", type=_path, multiple=True, help="Send a file along.")
@click.option("--test", "tests", type=_path, multiple=True, help="Tests that must pass.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Write files here.")
@click.option("--force", is_flag=True, help="With --out: overwrite without asking.")
@click.option("--stream", is_flag=True, help="Show each step as it happens.")
@click.option("--task-type", type=click.Choice([kind.value for kind in TaskType]))
@click.option("--persona", type=click.Choice([persona.value for persona in Persona]))
@click.option("--model", help="The model's alias; by default the server's default model.")
@click.option("--branches", type=click.IntRange(1, 16), help="How many candidates to generate.")
@click.option("--strategy", type=click.Choice([kind.value for kind in CollapseStrategy]))
@click.option("--label", "labels", multiple=True, help="What it belongs to; may keep it local.")
@click.option("--timeout", type=click.FloatRange(min=1), help="Seconds that the task may take.")
@click.option("--verified", is_flag=True, help="Exit with 3 if the answer fails its checks.")
@click.option("--url", help="The server's URL.")
@click.option("--key-file", type=_path, help="A file that holds the API key.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; with --stream, one line each.")
def run(prompt: str, loaded: Loaded, **options: Any) -> None:
    """Run a task and print its answer. PROMPT - reads it from standard input."""
    url = find_url(options["url"], loaded.settings, os.environ)
    key = find_key(options["key_file"], os.environ)
    body = _build_body(_read_prompt(prompt), options)
    shown = _OutputOptions(options["stream"], options["as_json"])
    answer = run_async(_run_task(ApiClient(url, key), body, shown))
    if answer is None:
        sys.exit(_NOT_COMPLETED)
    _print_answer(answer, shown)
    if options["out"] is not None:
        _write_answer(options["out"], answer, force=options["force"])
    if options["verified"] and not task_output.is_verified(answer):
        sys.exit(_NOT_VERIFIED)


def _read_prompt(argument: str) -> str:
    text = _read_source(Path("/dev/stdin")) if argument == "-" else argument
    if not text.strip():
        raise click.UsageError("the prompt is empty")
    return text


def _build_body(prompt: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The request body; its client-side id makes sending it twice safe."""
    quantum = {
        "quantum_branches": options["branches"],
        "collapse_strategy": options["strategy"],
    }
    body = {
        "prompt": prompt,
        "task_id": f"task_{secrets.token_hex(12)}",
        "task_type": options["task_type"],
        "persona": options["persona"],
        "model": options["model"],
        "timeout": options["timeout"],
        "labels": list(options["labels"]),
        "files": [_encode_file(path) for path in options["files"]],
        "tests": [_encode_file(path) for path in options["tests"]],
        "quantum_config": {name: value for name, value in quantum.items() if value is not None},
    }
    return {name: value for name, value in body.items() if value not in (None, [], {})}


def _encode_file(path: Path) -> dict[str, str]:
    """A file under its relative path, or under its base name if it lies elsewhere."""
    here, absolute = Path.cwd(), path.absolute()
    inside = absolute.is_relative_to(here) and ".." not in absolute.parts
    name = absolute.relative_to(here) if inside else Path(path.name)
    return {"path": name.as_posix(), "content": _read_source(path)}


def _read_source(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE + 1)
        text = content.decode()
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidInput(f"{path}: only text in UTF-8 can be sent") from None
    if len(content) > _MAX_FILE:
        raise InvalidInput(f"{path}: more than the {_MAX_FILE} bytes that can be sent")
    return text


async def _run_task(
    client: ApiClient, body: Mapping[str, Any], shown: _OutputOptions
) -> Mapping[str, Any] | None:
    """The answer of a task that completed; Ctrl-C cancels it on the server."""
    try:
        async with aclosing(client.run(body)) as frames:
            async for frame in frames:
                _print_frame(frame, shown)
                if frame["type"] == "complete":
                    return frame["data"]
        return None
    except asyncio.CancelledError:
        with suppress(httpx.HTTPError, TimeoutError):
            await client.cancel(body["task_id"])
        raise
    finally:
        await client.close()


def _print_frame(frame: Mapping[str, Any], shown: _OutputOptions) -> None:
    if frame["type"] == "error":
        click.echo(f"error: {task_output.printable(str(frame['error']['message']))}", err=True)
    if shown.stream and shown.as_json:
        click.echo(json.dumps(frame))
    elif shown.stream and (line := task_output.format_frame(frame)):
        click.echo(line, err=True)


def _print_answer(answer: Mapping[str, Any], shown: _OutputOptions) -> None:
    if shown.as_json:
        if not shown.stream:
            click.echo(json.dumps(answer, indent=2))
        return
    text = str(answer["result"]["result"])
    click.echo(task_output.printable(text) if sys.stdout.isatty() else text)
    for line in task_output.summary_lines(answer):
        click.echo(line, err=True)


def _write_answer(folder: Path, answer: Mapping[str, Any], *, force: bool) -> None:
    files = {item["filename"]: item["content"] for item in answer["result"]["artifacts"]}
    answer_files.check_names(files)
    existing = answer_files.existing_files(folder, files)
    if existing and not force:
        _confirm_overwrite(folder, existing)
    for path in answer_files.write_files(folder, files):
        click.echo(f"wrote {path}", err=True)
    if not files:
        click.echo("the answer holds no files; nothing was written", err=True)


def _confirm_overwrite(folder: Path, existing: list[str]) -> None:
    names = ", ".join(existing)
    if not sys.stdin.isatty():
        raise InvalidInput(f"already in {folder}: {names}; overwrite with --force")
    click.confirm(f"Overwrite {names} in {folder}?", abort=True, err=True)
