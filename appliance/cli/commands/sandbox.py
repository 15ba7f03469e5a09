"""`monkey-coder sandbox`: runs a program in a running server's sandbox; see sandbox_rootfs."""

import base64
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import IO, Any

import click

from appliance.cli.commands import sandbox_rootfs
from appliance.cli.support import answer_files, program_request
from appliance.cli.support.api_client import ApiClient, find_key, find_url
from appliance.cli.support.instance import instance_options, run_async
from appliance.config.loader import Loaded
from appliance.errors import ApplianceError, InvalidInput

_SANDBOX_ENDED = 124
_SIGNAL_BASE = 128

_EPILOG = """\b
Examples:
  monkey-coder sandbox run hello.py
  monkey-coder sandbox run main.c --timeout 5 -- first second
  monkey-coder sandbox run plot.py --file data.csv --artifact '*.png' --out results

\b
The key comes from --key-file, MONKEY_CODER_API_KEY_FILE or MONKEY_CODER_API_KEY; the
address from --url, MONKEY_CODER_URL, or the server that runs in the data directory.

\b
Exit status: the program's own; 128 and its number for a signal; 124 where the sandbox
ended it (stderr says why); 1 where it could not be run; 130 Ctrl-C, which ends it.
"""

_path = click.Path(exists=True, dir_okay=False, path_type=Path)


def _server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--key-file", type=_path, help="A file that holds the API key."),
        click.option("--url", help="The server's URL."),
    ):
        command = option(command)
    return command


@click.group()
def command() -> None:
    """Run a program in the sandbox of a running server; manage root file systems."""


command.add_command(sandbox_rootfs.command, "rootfs")


@command.command(epilog=_EPILOG)
@click.argument("program", type=_path)
@click.argument("args", nargs=-1)
@instance_options
@click.option("--language", help="Else its #! line or name tells it.")
@click.option(
    "--stdin",
    "stdin",
    type=click.Path(path_type=Path),
    help="A file, or -.  [default: stdin, unless it is a terminal]",
)
@click.option("--file", "files", type=_path, multiple=True, help="Send a file along.")
@click.option("--artifact", "artifacts", multiple=True, help="Return these files (pattern).")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path(),
              help="Target folder.  [default: the current one]")  # fmt: skip
@click.option("--force", is_flag=True, help="Overwrite existing files.")
@click.option("--timeout", type=click.FloatRange(min=0.1), help="Seconds it may take.")
@_server_options
def run(program: Path, args: tuple[str, ...], loaded: Loaded, **options: Any) -> None:
    """Run the file PROGRAM with ARGS; its output, input and exit status are passed on."""
    client = _client(loaded, options)
    result = run_async(_run_program(client, program, args, options))
    _write_artifacts(result, options["out"], force=options["force"])
    sys.exit(_exit_status(result))


@command.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@instance_options
@_server_options
def languages(loaded: Loaded, as_json: bool, **options: Any) -> None:
    """Print the languages that the server can run, each tested by it."""
    answer = run_async(_fetch_languages(_client(loaded, options)))
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    for each in answer["languages"]:
        also = f"  ({', '.join(each['aliases'])})" if each["aliases"] else ""
        click.echo(f"{each['name']:<8} {each['version']:<10}{also}")
    _check_available(answer)


def _client(loaded: Loaded, options: Mapping[str, Any]) -> ApiClient:
    url = find_url(options["url"], loaded.settings, os.environ)
    return ApiClient(url, find_key(options["key_file"], os.environ))


async def _fetch_languages(client: ApiClient) -> Any:
    try:
        return await client.get("/api/v1/sandbox/languages?wait=true")
    finally:
        await client.close()


async def _run_program(
    client: ApiClient, program: Path, args: Sequence[str], options: Mapping[str, Any]
) -> Mapping[str, Any]:
    """The result, after all output was printed."""
    try:
        language = options["language"] or await _find_language(client, program)
        body = program_request.build_body(program, args, language, options)
        async with aclosing(client.post_stream("/api/v1/sandbox/run/stream", body)) as frames:
            async for frame in frames:
                if frame["type"] == "error":
                    raise ApplianceError(str(frame["error"]["message"]))
                if frame["type"] == "result":
                    return frame["result"]
                _print_frame(frame)
        raise ApplianceError("the server ended the stream before the result")
    finally:
        await client.close()


async def _find_language(client: ApiClient, program: Path) -> str:
    offer = await client.get("/api/v1/sandbox/languages")
    languages, complete = offer["languages"], offer["complete"]
    language = program_request.detect_language(program, languages, complete=complete)
    if language is not None:
        return language
    # Detection may still be under way for up to a minute, or no language works.
    offer = await client.get("/api/v1/sandbox/languages?wait=true")
    _check_available(offer)
    return program_request.require_language(program, offer["languages"])


def _check_available(offer: Mapping[str, Any]) -> None:
    if not offer["available"]:
        raise ApplianceError(
            f"the server cannot run code: {offer['problem']}. {offer['remedy'] or ''}".rstrip()
        )


def _print_frame(frame: Mapping[str, Any]) -> None:
    """Write the program's bytes to stdout or stderr unchanged."""
    target: IO[bytes]
    if frame["type"] == "stdout":
        target = sys.stdout.buffer
    elif frame["type"] == "stderr":
        target = sys.stderr.buffer
    else:
        return
    exact = frame.get("base64")
    target.write(base64.b64decode(exact) if exact else str(frame["text"]).encode())
    target.flush()


def _write_artifacts(result: Mapping[str, Any], folder: Path, *, force: bool) -> None:
    files = {item["path"]: _decode_content(item) for item in result["artifacts"]}
    answer_files.check_names(files)
    existing = answer_files.existing_files(folder, files)
    if existing and not force:
        raise InvalidInput(
            f"these files exist in {folder}: {', '.join(existing)}; overwrite with --force"
        )
    for path in answer_files.write_files(folder, files):
        click.echo(f"wrote {path}", err=True)
    for refused in result["artifacts_refused"]:
        click.echo(f"not brought back: {click.unstyle(refused)}", err=True)


def _decode_content(item: Mapping[str, Any]) -> bytes:
    content = str(item["content"])
    return base64.b64decode(content) if item["encoding"] == "base64" else content.encode()


def _exit_status(result: Mapping[str, Any]) -> int:
    if result["truncated"]:
        click.echo("the output is longer than what is kept: only its start was passed on", err=True)
    if result["exit_code"] is not None:
        return int(result["exit_code"])
    if result["signal"] is not None:
        return _SIGNAL_BASE + int(result["signal"])
    click.echo(f"ended by the sandbox: {result['reason']}", err=True)
    return _SANDBOX_ENDED
