"""The command line in odd environments (F31): one line and an exit status, never a traceback."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from appliance.cli import COMMANDS
from appliance.cli.support.instance import data_dir, load_instance
from appliance.config import home, loader
from appliance.errors import ConfigError
from tests.support.gguf_files import write_gguf
from tests.support.ordinary_user import ROOT
from tests.support.server_process import PROGRAM, clean_env

UNNAMED_UID = 54321
# `doctor` would try every compiler.
QUICK = {"PYTHONPATH": str(ROOT), "MONKEY_CODER__SANDBOX__LANGUAGES": "python"}


def run_command(
    words: Sequence[str | bytes | Path],
    *,
    redirect: str = "",
    program: Sequence[str] = PROGRAM,
    **options: object,
) -> "subprocess.CompletedProcess[bytes]":
    """A command behind a shell that redirects its streams."""
    shell = ["/bin/sh", "-c", f'exec "$@" {redirect}', "sh", *program, *words]
    return subprocess.run(
        shell,
        check=False,
        capture_output=True,
        timeout=120,
        **{"env": clean_env(QUICK), **options},  # type: ignore[call-overload]
    )


def assert_one_line(ended: "subprocess.CompletedProcess[bytes]", text: str) -> None:
    """One error and status 1; a server has logged before."""
    lines = [line for line in ended.stderr.decode().splitlines() if "[info " not in line]
    assert (ended.returncode, len(lines)) == (1, 1), ended.stderr.decode()
    assert lines[0].startswith("error: ")
    assert text in lines[0]


def data_words(name: str, folder: Path) -> list[str]:
    """A command that prints something, with a data directory where it takes one."""
    words = {
        "task": ["task", "--help"],
        "sandbox": ["sandbox", "--help"],
        "model": ["model", "list", "--data-dir", str(folder)],
        "user": ["user", "list", "--data-dir", str(folder)],
        "key": ["key", "list", "--data-dir", str(folder)],
        "config": ["config", "show"],
        "completion": ["completion", "bash"],
        "version": ["version"],
        "doctor": ["doctor", "--data-dir", str(folder)],
        "serve": ["serve", "--data-dir", str(folder), "--port", "0"],
        "quickstart": ["quickstart", "--once", "--data-dir", str(folder)],
    }
    return words[name]


@pytest.mark.parametrize("name", list(COMMANDS))
def test_command_when_stdout_is_closed_then_says_so_and_does_nothing(
    name: str, tmp_path: Path
) -> None:
    ended = run_command(data_words(name, tmp_path / "data"), redirect=">&-")
    assert_one_line(ended, "standard output is closed")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "quickstart"])
def test_command_when_the_device_is_full_then_says_so(name: str, tmp_path: Path) -> None:
    ended = run_command(data_words(name, tmp_path / "data"), redirect="> /dev/full")
    errors = [line for line in ended.stderr.decode().splitlines() if "error:" in line]
    assert ended.returncode == 1
    assert errors == ["error: No space left on device"]
    assert b"Traceback" not in ended.stderr
    assert b"Exception ignored" not in ended.stderr


@pytest.mark.parametrize("redirect", ["<&-", "2>&-", "<&- 2>&-"])
def test_command_when_stdin_or_stderr_is_closed_then_works(tmp_path: Path, redirect: str) -> None:
    tiny = write_gguf(tmp_path / "tiny.gguf")
    words = ["model", "add", str(tiny), "--data-dir", str(tmp_path / "data")]
    ended = run_command(words, redirect=redirect)
    assert (ended.returncode, b"tiny (default)" in ended.stdout) == (0, True)


def test_command_when_all_streams_are_closed_then_exits_with_1(tmp_path: Path) -> None:
    words = ["user", "add", "alice", "--data-dir", str(tmp_path / "data")]
    assert run_command(words, redirect="<&- >&- 2>&-").returncode == 1


@pytest.mark.parametrize(
    "words",
    [
        ["model", "add", b"/no/bad\xff.gguf"],
        ["model", "show", b"bad\xff"],
        ["model", "list", "--data-dir", b"bad\xff"],
        ["config", "show", "--config", b"bad\xff"],
        ["user", "plan", "alice", b"bad\xff"],
        ["key", "create", b"bad\xff"],
        ["doctor", "--data-dir", b"bad\xff", "--config", b"bad\xff"],
        ["serve", "--data-dir", b"bad\xff"],
        ["completion", b"bad\xff"],
        ["task", "run", b"bad\xff", "--url", "http://127.0.0.1:1"],
    ],
    ids=lambda words: str(words[0]),
)
def test_command_when_an_argument_is_not_utf8_then_no_traceback(
    words: list[str | bytes], tmp_path: Path
) -> None:
    env = clean_env({"PYTHONPATH": str(ROOT), "XDG_DATA_HOME": str(tmp_path)})
    env["MONKEY_CODER_API_KEY"] = "mk-x"
    ended = run_command(words, env=env, cwd=tmp_path)
    assert ended.returncode in (1, 2)
    assert b"Traceback" not in ended.stderr
    assert b"rror: " in ended.stderr + ended.stdout or words[0] == "doctor"


def test_add_when_the_file_name_is_not_utf8_then_copied_and_in_place_refused(
    tmp_path: Path,
) -> None:
    file = write_gguf(tmp_path / os.fsdecode(b"bad\xff.gguf"))
    words = ["model", "add", file, "--alias", "x", "--data-dir", str(tmp_path / "data")]
    assert_one_line(run_command([*words, "--in-place"]), "not valid UTF-8; omit --in-place")
    ended = run_command(words)
    assert ended.returncode == 0, ended.stderr
    assert "bad\ufffd.gguf" in ended.stdout.decode()


def test_command_when_the_working_directory_is_not_utf8_then_one_line(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"bad\xff")
    folder.mkdir()
    ended = run_command(["model", "list", "--data-dir", "data"], cwd=folder)
    assert_one_line(ended, "not valid UTF-8")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("words", [["model", "list"], ["serve"], ["user", "list"]])
def test_command_when_the_user_has_no_name_and_no_home_then_asks_for_a_data_directory(
    words: list[str],
) -> None:
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    become = [sys.executable, "-m", "tests.support.ordinary_user", str(UNNAMED_UID), *PROGRAM]
    ended = run_command(words, program=become, env=env, cwd=ROOT)
    assert_one_line(ended, f"user id {UNNAMED_UID} has no home directory and HOME is not set")
    assert "--data-dir" in ended.stderr.decode()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_doctor_when_the_user_has_no_name_and_no_home_then_is_a_finding() -> None:
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    become = [sys.executable, "-m", "tests.support.ordinary_user", str(UNNAMED_UID), *PROGRAM]
    ended = run_command(["doctor"], program=become, env=env, cwd=ROOT)
    assert ended.returncode == 1
    assert b"has no home directory" in ended.stdout
    assert ended.stderr == b""


def test_tilde_when_there_is_no_home_then_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home(path: Path) -> Path:
        raise RuntimeError(path)

    monkeypatch.setattr(Path, "expanduser", no_home)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr("os.geteuid", lambda: UNNAMED_UID)
    assert home.find_home({}) is None
    with pytest.raises(ConfigError, match="without ~"):
        home.expand_home("~/x")
    assert load_instance(None, None).file in (None, loader.SYSTEM_FILE)
    with pytest.raises(ConfigError, match="--data-dir"):
        data_dir(load_instance(None, None).settings)
