"""The command line: one module per noun in commands/, imported on use; shared parts in support/."""

import difflib
import importlib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

import click

from appliance import __version__
from appliance.errors import ApplianceError

PROGRAM = "monkey-coder"
# Name and summary in the order of `--help`, which therefore imports no command.
COMMANDS: dict[str, str] = {
    "quickstart": "See it work: a local model writes code, the sandbox verifies it.",
    "serve": "Start the appliance.",
    "task": "Give a running server a coding task.",
    "sandbox": "Run a program in the sandbox of a running server.",
    "model": "Local models: list, add, remove, show.",
    "user": "User accounts: list, add, passwd, plan, disable.",
    "key": "API keys: create, list, revoke.",
    "config": "Show the settings and where each comes from.",
    "doctor": "Check what this machine offers, and whether serving would work.",
    "completion": "Print the completion script of a shell.",
    "version": "Print the version.",
}
_FAILED, _INTERRUPTED = 1, 130
_MAX_SHOWN = 200


class _LazyGroup(click.Group):
    """Finds the command NAME as `command` of appliance.cli.commands.NAME."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        return importlib.import_module(f"appliance.cli.commands.{cmd_name}").command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        close = difflib.get_close_matches(args[0], COMMANDS, 1)
        if args[0] not in COMMANDS and close and not ctx.resilient_parsing:
            ctx.fail(f"no command {args[0]!r}; did you mean {close[0]!r}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name]) for name in self.list_commands(ctx)])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", message="%(prog)s %(version)s")
def root() -> None:
    """A team's AI coding service on one machine: local models, verified answers, no cloud.

    New here? Run: monkey-coder quickstart
    """


def run(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong usage, 130 Ctrl-C."""
    _prepare_streams()
    try:
        status = root.main(args=argv, prog_name=PROGRAM, standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        sys.exit(_FAILED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(_INTERRUPTED)
    except ApplianceError as error:
        _fail(error.message)
    except OSError as error:
        _discard_output()
        reason = error.strerror or str(error)
        _fail(reason if error.filename is None else f"{error.filename}: {reason}")
    except UnicodeEncodeError as error:
        _fail(f"{ascii(error.object)[:_MAX_SHOWN]}: not valid UTF-8; rename or correct it")
    except UnicodeDecodeError:
        # Without the bytes: they may hold a password.
        _fail("standard input, or a file that was read, is not valid UTF-8")
    sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    sys.exit(_FAILED)


def _prepare_streams() -> None:
    """Replace closed standard streams, so that no other file takes their descriptors.

    Exits if standard output is closed: a command must not make a key that nobody sees.
    """
    is_output_closed = sys.stdout is None
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # Open until the process ends.
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        # File names may hold bytes that are not UTF-8, and locales lack characters.
        cast("io.TextIOWrapper[Any]", sys.stdout).reconfigure(errors="backslashreplace")
    if is_output_closed:
        _fail("standard output is closed; to discard it, redirect it to /dev/null")


def _discard_output() -> None:
    """Discard output that can't be written; the interpreter's flush at exit would complain."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
