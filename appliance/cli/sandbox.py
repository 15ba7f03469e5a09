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

from appliance.cli import artifacts, sandbox_rootfs
from appliance.cli.box import box_options, run_async
from appliance.cli.client import BoxClient, find_key, find_url
from appliance.config import Loaded
from appliance.errors import ApplianceError, InvalidInput

_MAX_FILE = 8 * 1024 * 1024
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
@click.option("--language", help="The language; from the file's name if not given.")
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
    if not answer["available"]:
        raise ApplianceError(f"the box can't run code: {answer['problem']}. {answer['remedy']}")


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
        body = _body(program, args, language, options)
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
    if not offer["complete"]:
        offer = await client.get("/api/v1/sandbox/languages?wait=true")
    suffix = program.suffix.removeprefix(".").lower()
    for language in offer["languages"]:
        # Where two take the same files, the one that they are named after comes first.
        if suffix in language["extensions"][:1]:
            return str(language["name"])
    for language in offer["languages"]:
        if suffix in language["extensions"]:
            return str(language["name"])
    names = ", ".join(language["name"] for language in offer["languages"])
    raise InvalidInput(
        f"{program}: its name tells no language that the box can run ({names}); use --language"
    )


def _body(
    program: Path, args: Sequence[str], language: str, options: Mapping[str, Any]
) -> dict[str, Any]:
    files = [program, *options["files"]]
    timeout = options["timeout"]
    return {
        "language": language,
        "files": [_file(path) for path in files],
        "args": list(args),
        "stdin": _base64(_input(options["stdin"])),
        "stdin_encoding": "base64",
        "artifacts": list(options["wanted"]),
        "limits": {} if timeout is None else {"wall_s": timeout},
    }


def _file(path: Path) -> dict[str, Any]:
    """A file under its path from here, or under its bare name if it lies elsewhere."""
    here, absolute = Path.cwd(), path.absolute()
    inside = absolute.is_relative_to(here) and ".." not in absolute.parts
    name = absolute.relative_to(here) if inside else Path(path.name)
    return {
        "path": name.as_posix(),
        "content": _base64(_read(path)),
        "encoding": "base64",
        "executable": os.access(path, os.X_OK),
    }


def _input(given: Path | None) -> bytes:
    if given is None:
        return b""
    return _read(Path("/dev/stdin") if str(given) == "-" else given)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}") from None
    if len(content) > _MAX_FILE:
        raise InvalidInput(f"{path}: more than the {_MAX_FILE} bytes that can be sent")
    return content


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


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
    artifacts.check_names(found)
    there = artifacts.existing(folder, found)
    if there and not force:
        raise InvalidInput(f"already in {folder}: {', '.join(there)}; overwrite with --force")
    for path in artifacts.write(folder, found):
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
