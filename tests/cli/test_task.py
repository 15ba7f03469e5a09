"""`task run`: a client that loses nothing, writes only where it may, and says how it ended."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.cli.support.api_client import find_key, find_url
from appliance.cli.support.task_output import format_frame, printable
from appliance.config.settings import DataSettings, Settings
from appliance.errors import InvalidInput, SetupError
from tests.support.command_line import Command, CommandResult, command_line
from tests.support.scripted_server import START, ScriptedServer, complete, progress, scripted_server


@pytest.fixture
def server() -> Generator[ScriptedServer]:
    with scripted_server() as running:
        yield running


@pytest.fixture
def task(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    server: ScriptedServer,
    tmp_path: Path,
) -> Iterator[Command]:
    """`monkey-coder task run`, against the scripted server."""
    monkeypatch.setenv("MONKEY_CODER_URL", server.url)
    monkeypatch.setenv("MONKEY_CODER_API_KEY", "mk-test")
    monkeypatch.chdir(tmp_path)
    with command_line(capsys, monkeypatch) as call:

        def run(*words: str) -> CommandResult:
            return call("task", "run", *words)

        yield run


def test_run_when_it_completes_then_prints_the_code_alone_on_stdout(
    task: Command, server: ScriptedServer
) -> None:
    server.parts = [[START, progress("planned"), complete()]]
    ended = task("write one")
    assert (ended.status, ended.out) == (0, "print(1)\n")
    assert "not verified" in ended.err
    assert "tiny: 12 tokens, 1.5 s" in ended.err


def test_run_when_options_are_given_then_the_request_holds_them(
    task: Command, server: ScriptedServer, tmp_path: Path
) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/app.py").write_text("x = 1\n")
    (tmp_path / "test_app.py").write_text("def test(): pass\n")
    server.parts = [[START, complete()]]
    words = "--task-type testing --persona tester --model m --branches 3 --strategy first_success"
    files = "--file src/app.py --test test_app.py --timeout 9 --label secret --label repo-1"
    task("do it", *words.split(), *files.split())
    method, path, headers, body = server.requests[0]
    assert (method, path) == ("POST", "/api/v1/execute/stream")
    assert headers["authorization"] == "Bearer mk-test"
    assert body.pop("task_id").startswith("task_")
    assert body == {
        "prompt": "do it",
        "task_type": "testing",
        "persona": "tester",
        "model": "m",
        "timeout": 9.0,
        "labels": ["secret", "repo-1"],
        "files": [{"path": "src/app.py", "content": "x = 1\n"}],
        "tests": [{"path": "test_app.py", "content": "def test(): pass\n"}],
        "quantum_config": {"quantum_branches": 3, "collapse_strategy": "first_success"},
    }


def test_run_when_streaming_then_shows_candidates_and_verdicts(
    task: Command, server: ScriptedServer
) -> None:
    plan = {"persona": "developer", "model": "m", "branches": 2, "level": "caller_tests"}
    written = {"branch": 0, "round": 0, "usage": {"completion_tokens": 40}, "seconds": 0.5}
    passed = {"branch": 0, "round": 0, "passed": 3, "failed": 0, "summary": "3 passed"}
    repaired = {"branch": 1, "round": 1, "passed": 1, "failed": 2, "summary": ""}
    frames = [
        START,
        progress("planned", plan=plan),
        progress("candidate", branch=written),
        progress("verdict", branch=passed),
        progress("verdict", branch=repaired),
    ]
    done = complete(level="caller_tests", passed=3, isolation="namespaces")
    server.parts = [[*frames, done]]
    ended = task("x", "--stream")
    assert ended.err.splitlines() == [
        "task task_x",
        "  developer with m: 2 candidates, check: caller tests",
        "  candidate 0  written: 40 tokens in 0.5 s",
        "  candidate 0  passed 3 of 3: 3 passed",
        "  candidate 1 (repair 1)  failed 1 of 3",
        "verified by caller tests: 3 passed, 0 failed, in a sandbox (namespaces)",
        "tiny: 12 tokens, 1.5 s",
    ]


def test_run_when_json_is_asked_for_then_stdout_is_json_only(
    task: Command, server: ScriptedServer
) -> None:
    server.parts = [[START, complete()]]
    assert json.loads(task("x", "--json").out)["status"] == "completed"
    server.parts = [[START, complete()]]
    lines = task("x", "--json", "--stream").out.splitlines()
    assert [json.loads(line)["type"] for line in lines] == ["start", "complete"]


def test_run_when_the_task_fails_then_says_why_with_status_1(
    task: Command, server: ScriptedServer
) -> None:
    error = {"code": "PROVIDER_ERROR", "message": "the engine died"}
    server.parts = [[START, {"type": "error", "error": error}]]
    ended = task("x")
    assert (ended.status, ended.out) == (1, "")
    assert "error: the engine died" in ended.err


@pytest.mark.parametrize(
    ("verification", "status"),
    [
        ({"level": "examples", "passed": 2, "failed": 0}, 0),
        ({"level": "examples", "passed": 2, "failed": 1}, 3),
        ({"level": "none", "passed": 0, "failed": 0}, 3),
        ({"level": "syntax", "passed": 1, "failed": 0}, 3),
    ],
)
def test_run_when_it_must_be_verified_then_the_status_says_whether(
    task: Command, server: ScriptedServer, verification: dict[str, Any], status: int
) -> None:
    server.parts = [[START, complete(None, **verification)]]
    assert task("x", "--verified").status == status


def test_run_when_the_connection_breaks_then_goes_on_behind_the_last_frame(
    task: Command, server: ScriptedServer
) -> None:
    server.parts = [[START, progress("a")], [progress("b")], [complete()]]
    ended = task("x")
    assert ended.status == 0
    task_id = server.requests[0][3]["task_id"]
    assert server.requested_paths()[1:] == [
        ("GET", f"/api/v1/tasks/{task_id}/events?after=2"),
        ("GET", f"/api/v1/tasks/{task_id}/events?after=3"),
    ]


def test_run_when_nobody_listens_then_says_where(task: Command) -> None:
    ended = task("x", "--url", "http://127.0.0.1:9")
    assert ended.status == 1
    assert ended.err.startswith("error: no server answers at http://127.0.0.1:9: ")


@pytest.mark.parametrize(
    ("status", "content", "message"),
    [
        (401, b'{"error": {"code": "X", "message": "bad key"}}', "bad key (the key comes from"),
        (503, b'{"error": {"code": "QUEUE_FULL", "message": "200 wait"}}', "error: 200 wait"),
        (502, b"<html>", "answered 502; the body is not a Monkey Coder error"),
    ],
)
def test_run_when_the_server_refuses_then_its_message_is_printed(
    task: Command, server: ScriptedServer, status: int, content: bytes, message: str
) -> None:
    server.refusal = (status, content)
    ended = task("x")
    assert ended.status == 1
    assert message in ended.err


def test_run_when_the_server_completes_the_task_then_no_error_is_printed(
    task: Command, server: ScriptedServer
) -> None:
    server.parts = [[START, complete()]]
    ended = task("x")
    assert ended.status == 0
    assert "error" not in ended.err


def test_run_when_out_is_given_then_writes_the_files(
    task: Command, server: ScriptedServer, tmp_path: Path
) -> None:
    server.parts = [[START, complete({"a.py": "1\n", "pkg/b.py": "2\n"})]]
    ended = task("x", "--out", "made")
    assert ended.status == 0
    assert (tmp_path / "made/a.py").read_text() == "1\n"
    assert (tmp_path / "made/pkg/b.py").read_text() == "2\n"
    assert "wrote made/pkg/b.py" in ended.err


def test_run_when_a_file_is_there_then_only_force_overwrites_it(
    task: Command, server: ScriptedServer, tmp_path: Path
) -> None:
    (tmp_path / "a.py").write_text("mine")
    server.parts = [[START, complete({"a.py": "new", "b.py": "new"})]]
    ended = task("x", "--out", ".")
    assert ended.status == 1
    assert "already in .: a.py; overwrite with --force" in ended.err
    assert (tmp_path / "a.py").read_text() == "mine"
    assert not (tmp_path / "b.py").exists()
    server.parts = [[START, complete({"a.py": "new"})]]
    assert task("x", "--out", ".", "--force").status == 0
    assert (tmp_path / "a.py").read_text() == "new"


@pytest.mark.parametrize(
    "name",
    [
        "../a",
        "/tmp/a",
        "a/../../b",
        "a//b",
        "./a",
        "",
        "a\\..\\b",
        "C:/a",
        "a\nb",
        "a\0b",
        "x" * 300,
    ],
)
def test_run_when_a_name_could_lead_out_then_nothing_is_written(
    task: Command, server: ScriptedServer, tmp_path: Path, name: str
) -> None:
    server.parts = [[START, complete({"good.py": "1", name: "evil"})]]
    ended = task("x", "--out", "made", "--force")
    assert ended.status == 1
    assert "nothing was written" in ended.err
    assert not (tmp_path / "made").exists()


def test_run_when_a_link_lies_in_the_folder_then_it_is_not_followed(
    task: Command, server: ScriptedServer, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").write_text("mine")
    made = tmp_path / "made"
    made.mkdir()
    (made / "sub").symlink_to(outside)
    (made / "file").symlink_to(outside / "keep")
    server.parts = [[START, complete({"sub/evil.py": "x"})]]
    assert task("x", "--out", "made", "--force").status == 1
    server.parts = [[START, complete({"file": "new"})]]
    assert task("x", "--out", "made", "--force").status == 0
    assert (outside / "keep").read_text() == "mine"
    assert (made / "file").read_text() == "new"
    assert list(outside.iterdir()) == [outside / "keep"]


@pytest.mark.parametrize("content", [b"\xff\xfe\x00binary", b"x" * (4 * 1024 * 1024 + 1)])
def test_run_when_a_file_can_not_be_sent_then_says_which(
    task: Command, server: ScriptedServer, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "f").write_bytes(content)
    ended = task("x", "--file", "f")
    assert ended.status == 1
    assert "error: f: " in ended.err
    assert server.requests == []


@pytest.mark.parametrize(
    "words", [[""], ["  "], [], ["x", "--file", "none"], ["x", "--branches", "0"]]
)
def test_run_when_usage_is_wrong_then_asks_nobody(
    task: Command, server: ScriptedServer, words: list[str]
) -> None:
    assert task(*words).status == 2
    assert server.requests == []


def test_run_when_a_file_lies_elsewhere_then_only_its_name_is_sent(
    task: Command, server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.py").write_text("1")
    monkeypatch.chdir(tmp_path / "deep")
    server.parts = [[START, complete()]]
    task("x", "--file", "../a.py", "--test", str(tmp_path / "a.py"))
    body = server.requests[0][3]
    assert [body["files"][0]["path"], body["tests"][0]["path"]] == ["a.py", "a.py"]


def test_run_when_a_file_never_ends_then_is_refused(task: Command, server: ScriptedServer) -> None:
    assert "more than" in task("x", "--file", "/dev/zero").err
    assert server.requests == []


def test_run_when_the_prompt_is_a_dash_then_reads_standard_input(
    server: ScriptedServer, tmp_path: Path
) -> None:
    server.parts = [[START, complete()]]
    environ = os.environ | {"MONKEY_CODER_URL": server.url, "MONKEY_CODER_API_KEY": "mk-test"}
    words = [sys.executable, "-m", "appliance", "task", "run", "-"]
    ended = subprocess.run(words, check=False, env=environ, input=b"from a pipe", timeout=60)
    assert ended.returncode == 0
    assert server.requests[0][3]["prompt"] == "from a pipe"


def test_run_when_interrupted_then_cancels_the_task_on_the_server(
    server: ScriptedServer, tmp_path: Path
) -> None:
    server.parts = [[START]]
    environ = os.environ | {"MONKEY_CODER_URL": server.url, "MONKEY_CODER_API_KEY": "mk-test"}
    words = [sys.executable, "-m", "appliance", "task", "run", "x", "--stream"]
    client = subprocess.Popen(words, env=environ, stderr=subprocess.PIPE, text=True)
    assert client.stderr is not None
    assert client.stderr.readline() == "task task_x\n"
    client.send_signal(signal.SIGINT)
    _, said = client.communicate(timeout=30)
    assert client.returncode == 130
    assert "Traceback" not in said
    assert server.requested_paths()[-1] == (
        "POST",
        f"/api/v1/tasks/{server.requests[0][3]['task_id']}/cancel",
    )


def test_find_key_when_given_in_several_ways_then_the_flag_wins(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("mk-file\n")
    environ = {"MONKEY_CODER_API_KEY": "mk-variable"}
    assert find_key(file, environ) == "mk-file"
    assert find_key(None, environ) == "mk-variable"
    assert find_key(None, {"MONKEY_CODER_API_KEY_FILE": str(file)}) == "mk-file"


@pytest.mark.parametrize("content", [b"", b"a b", b"mk-\xff", b"one\ntwo", b"k" * 9000])
def test_find_key_when_the_file_holds_none_then_says_so_without_its_content(
    tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(SetupError, match="key") as caught:
        find_key(file, {})
    assert not content or content.decode(errors="replace") not in caught.value.message


def test_find_key_when_there_is_none_then_says_how_to_get_one() -> None:
    with pytest.raises(SetupError, match="key create"):
        find_key(None, {})


def test_find_url_when_a_server_runs_here_then_it_is_found(tmp_path: Path) -> None:
    settings = Settings(data=DataSettings(dir=str(tmp_path)))
    with pytest.raises(SetupError, match="monkey-coder serve"):
        find_url(None, settings, {})
    (tmp_path / "run").mkdir()
    (tmp_path / "run/server.json").write_text('{"url": "http://127.0.0.1:8123", "pid": 1}')
    assert find_url(None, settings, {}) == "http://127.0.0.1:8123"
    assert find_url(None, settings, {"MONKEY_CODER_URL": "http://b:1/"}) == "http://b:1"
    assert find_url("https://a", settings, {"MONKEY_CODER_URL": "http://b"}) == "https://a"


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://a", "http://", "file:///x", "http://[::1", "http://a:x"]
)
def test_find_url_when_it_is_none_then_says_the_form(url: str) -> None:
    with pytest.raises(InvalidInput, match="http://HOST:PORT"):
        find_url(url, Settings(), {})


def test_printable_when_text_could_command_the_terminal_then_it_can_not() -> None:
    assert printable("a\x1b[2Jb\x07\x9b\r\nc\td") == "a[2Jb\nc\td"


def test_line_of_when_a_frame_is_odd_then_does_not_fail() -> None:
    odd: list[dict[str, Any]] = [{}, {"type": "progress"}, {"type": "progress", "branch": []}]
    for frame in odd:
        format_frame(frame)
