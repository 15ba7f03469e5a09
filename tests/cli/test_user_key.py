"""`monkey-coder user` and `monkey-coder key`, run as a user types them."""

import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from appliance import cli
from tests.support.accounts import PASSWORD


class CommandLine:
    """The command line on a data directory; `out` and `err` hold the last command's output."""

    def __init__(
        self, folder: Path, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]
    ) -> None:
        self.folder = folder
        self._patch = patch
        self._capture = capture
        self.out = ""
        self.err = ""

    def run(self, *argv: str, stdin: str = "") -> int:
        self._patch.setattr(sys, "stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as exited:
            cli.run([*argv, "--data-dir", str(self.folder)])
        self.out, self.err = self._capture.readouterr()
        return int(exited.value.code or 0)

    def add(self, name: str, *options: str) -> None:
        added = self.run("user", "add", name, "--password-stdin", *options, stdin=f"{PASSWORD}\n")
        assert added == 0, self.err

    def list_all(self, noun: str, *options: str) -> list[dict[str, Any]]:
        assert self.run(noun, "list", "--json", *options) == 0
        return json.loads(self.out)


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> CommandLine:
    for name in ("DATABASE_URL", "JWT_SECRET_KEY"):
        monkeypatch.delenv(name, raising=False)
    return CommandLine(tmp_path / "data", monkeypatch, capsys)


def test_user_add_when_given_everything_then_listed(shell: CommandLine) -> None:
    shell.add("Root", "--role", "admin", "--email", "Root@example.com", "--name", "The Root")
    assert "root" in shell.out
    [user] = shell.list_all("user")
    assert user["id"].startswith("user_")
    assert user["created_at"].endswith("Z")
    assert {name: user[name] for name in ("username", "email", "name", "role", "status")} == {
        "username": "root",
        "email": "root@example.com",
        "name": "The Root",
        "role": "admin",
        "status": "active",
    }


def test_user_add_when_only_named_then_developer_of_this_machine(shell: CommandLine) -> None:
    shell.add("alice")
    [user] = shell.list_all("user")
    assert (user["email"], user["name"], user["role"]) == ("alice@localhost", "alice", "developer")
    assert shell.run("user", "list") == 0
    header, line = shell.out.splitlines()
    assert header.split()[:3] == ["USERNAME", "ROLE", "STATUS"]
    assert line.split()[:3] == ["alice", "developer", "active"]


@pytest.mark.parametrize(
    ("argv", "stdin", "status", "said"),
    [
        (["user", "add", "bob"], "", 2, "--password-stdin"),
        (["user", "add", "bob", "--password-stdin"], "", 1, "password: must have at least 8"),
        (["user", "add", "bob", "--password-stdin"], "short\n", 1, "password: must have"),
        (["user", "add", "bob", "--password-stdin"], "x" * 2000, 1, "1024 bytes"),
        (["user", "add", "b ob", "--password-stdin"], PASSWORD, 1, "username: "),
        (["user", "add", "bob", "--email", "b", "--password-stdin"], PASSWORD, 1, "email: "),
        (["user", "add", "bob", "--role", "god"], "", 2, "'god' is not one of"),
        (["user", "add"], "", 2, "Missing argument"),
        (["user", "passwd", "nobody", "--password-stdin"], PASSWORD, 1, "no user 'nobody'"),
        (["user", "disable", "nobody"], "", 1, "no user 'nobody'"),
        (["key", "create"], "", 2, "--user"),
        (["key", "create", "--user", "nobody"], "", 1, "no user 'nobody'"),
        (["key", "create", "--user", "x", "--scope", "root"], "", 2, "'root' is not one of"),
        (["key", "create", "--user", "x", "--expires-days", "-1"], "", 2, "not in the range"),
        (["key", "list", "--user", "nobody"], "", 1, "no user 'nobody'"),
        (["key", "revoke", "key_x"], "", 1, "no such API key"),
    ],
)
def test_command_when_wrong_then_says_so_in_one_line_and_fails(
    shell: CommandLine, argv: list[str], stdin: str, status: int, said: str
) -> None:
    assert shell.run(*argv, stdin=stdin) == status
    assert shell.out == ""
    assert said in shell.err
    assert "Traceback" not in shell.err


def test_user_add_when_name_is_taken_then_says_so(shell: CommandLine) -> None:
    shell.add("alice")
    added = shell.run("user", "add", "ALICE", "--password-stdin", stdin=PASSWORD)
    assert (added, shell.err) == (1, "error: the username 'alice' is taken\n")


def test_user_disable_when_undone_then_keys_stop_and_work_again(shell: CommandLine) -> None:
    shell.add("alice")
    assert shell.run("key", "create", "--user", "alice") == 0
    for command, user_status, key_status in (
        ("disable", "disabled", "inactive"),
        ("enable", "active", "active"),
    ):
        assert shell.run("user", command, "alice@localhost") == 0
        assert shell.list_all("user")[0]["status"] == user_status
        assert shell.list_all("key")[0]["status"] == key_status


def test_user_passwd_when_changed_then_stored(shell: CommandLine) -> None:
    shell.add("alice")
    assert shell.run("user", "passwd", "alice", "--password-stdin", stdin="a new password\r\n") == 0
    assert "alice" in shell.out


def test_key_create_when_done_then_the_key_alone_is_on_stdout(shell: CommandLine) -> None:
    shell.add("alice")
    options = ["--name", "nightly", "--scope", "tasks:read", "--scope", "tasks:write"]
    assert shell.run("key", "create", "--user", "ALICE", *options, "--expires-days", "1.5") == 0
    key = shell.out.removesuffix("\n")
    assert key.startswith("mk-")
    assert len(key) == 46
    assert key not in shell.err
    [listed] = shell.list_all("key", "--user", "alice")
    assert (listed["name"], listed["user"], listed["status"]) == ("nightly", "alice", "active")
    assert listed["scopes"] == ["tasks:read", "tasks:write"]
    assert key.startswith(listed["prefix"])
    assert key not in shell.out


def test_key_list_when_many_have_keys_then_all_or_one_users(shell: CommandLine) -> None:
    for name in ("alice", "bob"):
        shell.add(name)
        assert shell.run("key", "create", "--user", name) == 0
    assert [key["user"] for key in shell.list_all("key")] == ["bob", "alice"]
    assert [key["user"] for key in shell.list_all("key", "--user", "bob")] == ["bob"]
    assert shell.run("key", "list") == 0
    assert len(shell.out.splitlines()) == 3


def test_key_revoke_when_done_then_listed_as_revoked(shell: CommandLine) -> None:
    shell.add("alice")
    shell.run("key", "create", "--user", "alice")
    [key] = shell.list_all("key")
    assert shell.run("key", "revoke", key["id"]) == 0
    assert key["prefix"] in shell.out
    assert shell.list_all("key")[0]["status"] == "revoked"


def test_list_when_there_is_nothing_then_an_empty_table_and_an_empty_array(
    shell: CommandLine,
) -> None:
    for noun in ("user", "key"):
        assert shell.list_all(noun) == []
        assert shell.run(noun, "list") == 0
        assert len(shell.out.splitlines()) == 1


@pytest.mark.parametrize(
    ("second", "status", "said"),
    [(PASSWORD, 0, "added the user alice"), ("something else", 1, "do not match")],
)
def test_user_add_when_at_a_terminal_then_asks_twice_and_shows_nothing(
    tmp_path: Path, second: str, status: int, said: str
) -> None:
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-m", "appliance", "user", "add", "alice", "--data-dir", str(tmp_path)]
    with subprocess.Popen(
        argv, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    ) as process:
        os.close(theirs)
        # The blank after the prompt comes when the echo is off.
        shown = read_until(ours, "Password: ")
        os.write(ours, f"{PASSWORD}\n".encode())
        shown += read_until(ours, "confirmation: ")
        os.write(ours, f"{second}\n".encode())
        shown += read_until(ours, said)
        if status:
            process.terminate()
        else:
            assert process.wait(60) == 0
    os.close(ours)
    assert PASSWORD not in shown


def read_until(descriptor: int, text: str) -> str:
    shown = ""
    while text not in shown:
        shown += os.read(descriptor, 4096).decode()
    return shown
