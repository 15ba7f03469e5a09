"""The command line as a whole: help, version, completion, exit statuses, errors in one line."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from appliance import __version__
from appliance.cli import COMMANDS, root
from appliance.errors import StoreError
from tests.support.command_line import Command, command_line

PROGRAM = [sys.executable, "-m", "appliance"]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    with command_line(capsys, monkeypatch) as call:
        yield call


@pytest.mark.parametrize("words", [["--help"], ["-h"]])
def test_help_when_asked_then_names_every_command(cli: Command, words: list[str]) -> None:
    ended = cli(*words)
    assert ended.status == 0
    assert all(name in ended.out for name in COMMANDS)


def test_help_when_asked_then_imports_no_command() -> None:
    code = (
        "import sys; from appliance.cli import run\ntry: run(['--help'])\nexcept SystemExit: pass\n"
    )
    code += (
        "heavy = {'httpx', 'aiosqlite', 'litestar', 'granian', 'structlog'} & set(sys.modules)\n"
    )
    code += "sys.exit(', '.join(heavy) or 0)"
    ended = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, timeout=60
    )
    assert ended.stderr == b""
    assert ended.returncode == 0


@pytest.mark.parametrize("name", list(COMMANDS))
def test_help_when_asked_of_a_command_then_explains_it(cli: Command, name: str) -> None:
    ended = cli(name, "--help")
    assert ended.status == 0
    assert "Usage: monkey-coder" in ended.out


@pytest.mark.parametrize("name", list(COMMANDS))
def test_summary_when_listed_then_is_the_first_sentence_of_the_command(name: str) -> None:
    command = root.get_command(click.Context(root), name)
    assert command is not None
    assert command.help


def test_version_when_asked_then_is_the_programs(cli: Command) -> None:
    assert cli("--version").out == f"monkey-coder {__version__}\n"
    assert cli("version").out == f"monkey-coder {__version__}\n"
    facts = json.loads(cli("version", "--json").out)
    assert facts["version"] == __version__
    assert facts["executable"] is False


@pytest.mark.parametrize("words", [["modle"], ["model", "lst"], ["serve", "--prot"], ["--nope"]])
def test_run_when_usage_is_wrong_then_exits_with_2_and_says_so(
    cli: Command, words: list[str]
) -> None:
    ended = cli(*words)
    assert ended.status == 2
    assert ended.out == ""
    assert "Usage: monkey-coder" in ended.err


def test_run_when_a_command_is_misspelled_then_names_the_nearest(cli: Command) -> None:
    assert "did you mean 'doctor'?" in cli("docter").err


def test_run_when_an_error_of_the_tree_is_raised_then_one_line_and_status_1(
    cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(**_: object) -> None:
        raise StoreError("the disk is gone; mount it")

    monkeypatch.setattr("appliance.cli.commands.version.command.callback", broken)
    ended = cli("version")
    assert (ended.status, ended.out) == (1, "")
    assert ended.err == "error: the disk is gone; mount it\n"


def test_run_when_interrupted_then_exits_with_130(
    cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("appliance.cli.commands.version.command.callback", interrupted)
    assert cli("version").status == 130


def test_run_when_the_reader_goes_away_then_stays_quiet() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    words = [*PROGRAM, "config", "show"]
    ended = subprocess.run(words, check=False, stdout=writer, stderr=subprocess.PIPE, timeout=60)
    os.close(writer)
    assert ended.returncode == 1
    assert ended.stderr == b""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_when_asked_then_prints_a_script_that_asks_the_program(
    cli: Command, shell: str
) -> None:
    ended = cli("completion", shell)
    assert ended.status == 0
    assert "_MONKEY_CODER_COMPLETE" in ended.out


def test_completion_when_the_shell_asks_then_offers_commands() -> None:
    asked = {"_MONKEY_CODER_COMPLETE": "bash_complete", "COMP_WORDS": "monkey-coder mod"}
    environ = os.environ | asked | {"COMP_CWORD": "1"}
    ended = subprocess.run(PROGRAM, check=False, env=environ, capture_output=True, timeout=60)
    assert ended.stdout == b"plain,model\n"


def test_completion_when_given_another_shell_then_refuses(cli: Command) -> None:
    assert cli("completion", "tcsh").status == 2
