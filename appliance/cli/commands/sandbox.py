"""`monkey-coder sandbox`: runs a program confined on a running box; see also sandbox_rootfs."""

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
from appliance.cli.support.api_client import BoxClient, find_key, find_url
from appliance.cli.support.instance import box_options, run_async
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
address from --url, MONKEY_CODER_URL, or the box that runs in the data directory.

\b
Exit status: the program's own; 128 and its number for a signal; 124 where the sandbox
ended it (stderr says why); 1 where it could not be run; 130 Ctrl-C, which ends it.
"""

_path = click.Path(exists=True, dir_okay=False, path_type=Path)


def _where(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--key-file", type=_path, help="A file that holds the API key."),
        click.option("--url", help="The box's address."),
    ):
        command = option(command)
    return command


@click.group()
def command() -> None:
    """Run a program confined on a running box; set up what its sandboxes show."""


command.add_command(sandbox_rootfs.command, "rootfs")


@command.command(epilog=_EPILOG)
@click.argument("program", type=_path)
@click.argument("args", nargs=-1)
@box_options
@click.option("--language", help="Else its #! line or name tells it.")
@click.option("--stdin", "stdin", type=click.Path(path_type=Path), help="A file, or -.")
@click.option("--file", "files", type=_path, multiple=True, help="Send a file along.")
@click.option("--artifact", "wanted", multiple=True, help="Bring these files back (pattern).")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path(),
              help="Where to.  [default: here]")  # fmt: skip
@click.option("--force", is_flag=True, help="Overwrite files there.")
@click.option("--timeout", type=click.FloatRange(min=0.1), help="Seconds it may take.")
@_where
def run(program: Path, args: tuple[str, ...], loaded: Loaded, **options: Any) -> None:
    """Run the file PROGRAM with ARGS; its output, input and exit status are passed on."""
    client = _client(loaded, options)
    result = run_async(_run(client, program, args, options))
    _keep(result, options["out"], force=options["force"])
    sys.exit(_status(result))


@command.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@box_options
@_where
def languages(loaded: Loaded, as_json: bool, **options: Any) -> None:
    """Print the languages that the box can run, each tried by it."""
    answer = run_async(_languages(_client(loaded, options)))
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    for each in answer["languages"]:
        also = f"  ({', '.join(each['aliases'])})" if each["aliases"] else ""
        click.echo(f"{each['name']:<8} {each['version']:<10}{also}")
    _check_available(answer)


def _client(loaded: Loaded, options: Mapping[str, Any]) -> BoxClient:
    url = find_url(options["url"], loaded.settings, os.environ)
    return BoxClient(url, find_key(options["key_file"], os.environ))


async def _languages(client: BoxClient) -> Any:
    try:
        return await client.get("/api/v1/sandbox/languages?wait=true")
    finally:
        await client.close()


async def _run(
    client: BoxClient, program: Path, args: Sequence[str], options: Mapping[str, Any]
) -> Mapping[str, Any]:
    """The result, once all output has been passed on."""
    try:
        language = options["language"] or await _language_of(client, program)
        body = program_request.body(program, args, language, options)
        async with aclosing(client.post_stream("/api/v1/sandbox/run/stream", body)) as frames:
            async for frame in frames:
                if frame["type"] == "error":
                    raise ApplianceError(str(frame["error"]["message"]))
                if frame["type"] == "result":
                    return frame["result"]
                _pass_on(frame)
        raise ApplianceError("the box ended the stream before the result")
    finally:
        await client.close()


async def _language_of(client: BoxClient, program: Path) -> str:
    offer = await client.get("/api/v1/sandbox/languages")
    languages, complete = offer["languages"], offer["complete"]
    found = program_request.language_among(program, languages, complete=complete)
    if found is not None:
        return found
    # Some are still being tried, and that can take a minute; or there is none.
    offer = await client.get("/api/v1/sandbox/languages?wait=true")
    _check_available(offer)
    return program_request.language_of(program, offer["languages"])


def _check_available(offer: Mapping[str, Any]) -> None:
    if not offer["available"]:
        raise ApplianceError(
            f"the box can't run code: {offer['problem']}. {offer['remedy'] or ''}".rstrip()
        )


def _pass_on(frame: Mapping[str, Any]) -> None:
    """Give the program's bytes to our own stdout or stderr, as they are."""
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


def _keep(result: Mapping[str, Any], folder: Path, *, force: bool) -> None:
    found = {item["path"]: _content(item) for item in result["artifacts"]}
    answer_files.check_names(found)
    there = answer_files.existing(folder, found)
    if there and not force:
        raise InvalidInput(f"already in {folder}: {', '.join(there)}; overwrite with --force")
    for path in answer_files.write(folder, found):
        click.echo(f"wrote {path}", err=True)
    for refused in result["artifacts_refused"]:
        click.echo(f"not brought back: {click.unstyle(refused)}", err=True)


def _content(item: Mapping[str, Any]) -> bytes:
    content = str(item["content"])
    return base64.b64decode(content) if item["encoding"] == "base64" else content.encode()


def _status(result: Mapping[str, Any]) -> int:
    if result["truncated"]:
        click.echo("the output is longer than what is kept: only its start was passed on", err=True)
    if result["exit_code"] is not None:
        return int(result["exit_code"])
    if result["signal"] is not None:
        return _SIGNAL_BASE + int(result["signal"])
    click.echo(f"ended by the sandbox: {result['reason']}", err=True)
    return _SANDBOX_ENDED
