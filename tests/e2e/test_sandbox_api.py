"""Sandbox runs through the HTTP API of a real server: results and refusals."""

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.sandbox_server import (
    PISTON,
    RUN,
    error_of,
    python,
)
from tests.support.server_process import ServerProcess, command


def test_run_when_all_is_given_then_the_program_gets_it_and_its_files_come_back(
    sandbox: httpx.Client,
) -> None:
    code = (
        "import os, sys, data.more\n"
        "print(sys.argv[1:], sys.stdin.read(), os.environ['NAME'], data.more.VALUE)\n"
        "print('careful', file=sys.stderr)\n"
        "open('out.txt', 'w').write('text'); open('out.bin', 'wb').write(bytes([255, 0]))\n"
        "sys.exit(3)\n"
    )
    body = {
        "language": "Python3",
        "files": [
            {"path": "start.py", "content": code},
            {"path": "data/more.py", "content": base64.b64encode(b"VALUE=7").decode(),
             "encoding": "base64"},
        ],
        "entry": "start.py",
        "args": ["a b", "-c"],
        "stdin": "typed",
        "environment": {"NAME": "value"},
        "artifacts": ["out.*"],
        "limits": {"wall_s": 5},
    }  # fmt: skip
    answer = sandbox.post(RUN, json=body).json()

    assert answer["stdout"] == "['a b', '-c'] typed value 7\n"
    assert answer["stderr"] == "careful\n"
    assert (answer["ok"], answer["reason"], answer["exit_code"]) == (False, "exited", 3)
    assert (answer["language"], answer["signal"], answer["truncated"]) == ("python", None, False)
    assert [(each["path"], each["content"], each["encoding"]) for each in answer["artifacts"]] == [
        ("out.bin", "/wA=", "base64"),
        ("out.txt", "text", "utf-8"),
    ]
    assert answer["usage"]["wall_s"] > 0
    assert answer["isolation"]["level"] == "namespaces"
    assert "seccomp" in answer["isolation"]["layers"]


def test_run_when_output_is_no_text_then_its_bytes_are_told_too(sandbox: httpx.Client) -> None:
    answer = python(sandbox, "import sys; sys.stdout.buffer.write(b'a\\xffb')")

    assert answer["stdout"] == "a\ufffdb"
    assert base64.b64decode(answer["stdout_base64"]) == b"a\xffb"


WORKS = {
    "c": '#include <stdio.h>\nint main(int n, char **a) { printf("%s\\n", a[1]); return 4; }',
    "c++": "#include <iostream>\nint main(int n, char **a) "
    '{ std::cout << a[1] << "\\n"; return 4; }',
    "java": "public class Main { public static void main(String[] a) "
    "{ System.out.println(a[0]); System.exit(4); } }",
    "rust": 'fn main() { println!("{}", std::env::args().nth(1).unwrap()); '
    "std::process::exit(4); }",
    "go": 'package main\nimport ("fmt"; "os")\nfunc main() { fmt.Println(os.Args[1]); os.Exit(4) }',
    "javascript": "console.log(process.argv[2]); process.exit(4)",
    "bash": "echo $1; exit 4",
}


def test_java_when_in_a_package_then_its_class_is_found(sandbox: httpx.Client) -> None:
    source = "// first\n package a.b ;\nclass Main { public static void main(String[] x) "
    file = {"path": "a/b/Main.java", "content": source + '{ System.out.println("in it"); } }'}
    answer = sandbox.post(RUN, json={"language": "java", "files": [file]})
    if answer.status_code == 400:
        pytest.skip("needs java: not on this machine")

    assert answer.json()["stdout"] == "in it\n", answer.json()


@pytest.mark.parametrize("language", list(WORKS))
def test_language_when_listed_then_its_programs_are_built_and_run(
    language: str, sandbox: httpx.Client
) -> None:
    offer = sandbox.get("/api/v1/sandbox/languages").json()
    assert offer["complete"]
    if not any(language in (each["name"], *each["aliases"]) for each in offer["languages"]):
        pytest.skip(f"needs {language}: not on this machine")
    body = {"language": language, "code": WORKS[language], "args": ["said it"]}
    answer = sandbox.post(RUN, json=body).json()

    assert (answer["stdout"], answer["exit_code"]) == ("said it\n", 4), answer


def test_build_when_it_fails_then_the_compiler_is_heard(sandbox: httpx.Client) -> None:
    answer = sandbox.post(RUN, json={"language": "c", "code": "int main( { }"})
    if answer.status_code == 400:
        pytest.skip("needs c: no compiler on this machine")

    assert answer.json()["build"]["exit_code"] == 1
    assert "error" in answer.json()["build"]["stderr"]
    assert answer.json()["stderr"] == answer.json()["build"]["stderr"]
    assert answer.json()["artifacts"] == []


def test_stream_when_the_program_speaks_slowly_then_heard_as_it_comes(
    sandbox: httpx.Client,
) -> None:
    code = "import sys\nprint('ready ä', flush=True)\nwhile not open('/tmp/x','a').close(): pass"
    body = {"language": "python", "code": code, "limits": {"wall_s": 2}}
    frames: list[dict[str, Any]] = []
    with sandbox.stream("POST", f"{RUN}/stream", json=body) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: "):
                frames.append(json.loads(line[6:]))

    kinds = [frame["type"] for frame in frames]
    said = frames[2:-1]  # One line may come in several pieces.
    assert kinds == ["queued", "started", *["stdout"] * len(said), "result"]
    assert frames[1]["live"] is True
    assert "".join(frame["text"] for frame in said) == "ready ä\n"
    assert frames[-1]["result"]["reason"] == "wall_time"


def test_stream_when_the_request_is_wrong_then_a_plain_error(sandbox: httpx.Client) -> None:
    answer = sandbox.post(f"{RUN}/stream", json={"language": "cobol", "code": ""})

    assert error_of(answer)[:2] == (400, "VALIDATION_ERROR")
    assert "python" in error_of(answer)[2]


@pytest.mark.parametrize(
    "wrong",
    [
        {"args": ["x" * 200_000]},
        {"environment": {"A=B": "x"}},
        {"artifacts": ["x" * 300]},
        {"args": ["a\0b"]},
    ],
)
def test_stream_when_only_the_sandbox_would_refuse_it_then_a_plain_error(
    wrong: dict[str, Any], sandbox: httpx.Client
) -> None:
    body = {"language": "python", "code": "pass", **wrong}

    assert error_of(sandbox.post(f"{RUN}/stream", json=body))[0] == 400


def files(*paths: str) -> dict[str, Any]:
    return {"language": "sh", "files": [{"path": path, "content": "echo x"} for path in paths]}


WRONG: dict[str, tuple[Any, str]] = {
    "empty object": ({}, "language: is required"),
    "no body": (b"", "body"),
    "list": ([], "Expected `object`"),
    "half": (b'{"language"', "body"),
    "unknown field": ({"argv": ["true"], "image": "x"}, "image"),
    "both": ({"language": "sh", "argv": ["sh"], **{"code": ""}}, "argv: can't be combined with"),
    "wrong type": ({"language": 7}, "language"),
    "no files": ({"language": "sh"}, "files: is empty"),
    "unknown language": ({"language": "cobol", "code": ""}, "'cobol' is not available"),
    "code alone": ({"code": "x"}, "code: requires `language`"),
    "traversal": (files("../x.sh"), "files[0].path: must not contain .."),
    "absolute": (files("/etc/x"), "files[0].path: must be relative"),
    "home": (files("~/x"), "files[0].path"),
    "control": (files("a\nb"), "files[0].path"),
    "nul": (files("a\0b"), "files[0].path"),
    "twice": (files("a", "a"), "duplicate path 'a'"),
    "file and folder": (files("a", "a/b"), "both a file and a folder"),
    "long name": (files("x" * 300), "too long"),
    "bad entry": ({**files("a"), "entry": "b"}, "entry: 'b' is not one of the files"),
    "bad base64": (
        {"language": "sh", "files": [{"path": "a", "content": "§", "encoding": "base64"}]},
        "files[0].content: is not valid base64",
    ),
    "higher limit": (
        {"argv": ["true"], "limits": {"wall_s": 11}},
        "limits.wall_s: 11 is out of range (0.1 to 10)",
    ),
    "negative limit": ({"argv": ["true"], "limits": {"memory_bytes": -1}}, "limits.memory_bytes"),
    "unknown limit": ({"argv": ["true"], "limits": {"disks": 1}}, "disks"),
    "limit of many digits": (
        b'{"argv":["true"],"limits":{"memory_bytes":' + b"9" * 400 + b"}}", "hundreds of digits"
    ),
    "text limit": ({"argv": ["true"], "limits": {"wall_s": "long"}}, "wall_s"),
    "bad variable": ({"argv": ["true"], "environment": {"A=B": "x"}}, "environment"),
    "nul in argv": ({"argv": ["a\0"]}, "argv"),
    "nul in args": ({**files("a"), "args": ["x", "a\0"]}, "args[1]: must not contain a NUL"),
    "file after code": ({**files("../x.sh"), "code": "x"}, "files[0].path: must not contain .."),
    "file named as code": ({**files("main.sh"), "code": "x"}, "files[0].path: duplicate path"),
    "many patterns": ({"argv": ["true"], "artifacts": ["*"] * 33}, "artifacts: has 33 entries"),
    "bad pattern": ({"argv": ["true"], "artifacts": [""]}, "artifacts"),
    "too many files": (files(*(f"f{n}" for n in range(1001))), "files: has 1001 entries"),
    "files too large": (
        {"argv": ["true"], "files": [{"path": "a", "content": "x" * 9_000_000}],
         "limits": {"workspace_bytes": 8_000_000}},
        "files: need",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(WRONG))
def test_run_when_the_request_is_wrong_then_the_place_is_named(
    name: str, sandbox: httpx.Client
) -> None:
    body, words = WRONG[name]
    content: dict[str, Any] = {"content": body} if isinstance(body, bytes) else {"json": body}
    answer = sandbox.post(RUN, headers={"Content-Type": "application/json"}, **content)

    status, code, message = error_of(answer)
    assert (status, code) == (400, "VALIDATION_ERROR"), answer.text
    assert words in message


def test_run_when_the_body_is_huge_then_refused(sandbox: httpx.Client) -> None:
    answer = sandbox.post(RUN, json={"argv": ["true"], "stdin": "x" * 20_000_000})

    assert error_of(answer)[:2] == (413, "PAYLOAD_TOO_LARGE")


def test_rights_when_the_key_lacks_the_scope_then_forbidden(sandbox_server: ServerProcess) -> None:
    data = ("--data-dir", sandbox_server.data_dir)
    for name, role in (("limited", "developer"), ("watcher", "viewer")):
        words = ("user", "add", name, "--email", f"{name}@example.com", "--role", role)
        command(*words, "--password-stdin", *data, input="a long password\n")
    for user, scopes, allowed in (
        ("limited", ["tasks:read"], False),
        ("limited", ["sandbox"], True),
        ("watcher", [], False),
    ):
        flags = [word for scope in scopes for word in ("--scope", scope)]
        key = command("key", "create", "--user", user, *flags, *data).stdout.strip()
        with sandbox_server.client(key) as client:
            answers = [
                client.post(RUN, json={"argv": ["true"]}),
                client.get("/api/v1/sandbox/languages"),
                client.get("/api/v2/runtimes"),
            ]
        assert {answer.status_code for answer in answers} == {200 if allowed else 403}, user


def test_every_route_when_nobody_is_logged_in_then_401(sandbox_server: ServerProcess) -> None:
    with httpx.Client(base_url=sandbox_server.url) as nobody:
        posts = [nobody.post(path, json={}) for path in (RUN, f"{RUN}/stream", PISTON)]
        gets = [nobody.get(path) for path in ("/api/v1/sandbox/languages", "/api/v2/runtimes")]
    assert {answer.status_code for answer in (*posts, *gets)} == {401}
    assert posts[2].json().keys() == {"message"}


def test_command_when_it_runs_a_file_then_output_status_and_files_are_passed_on(
    sandbox_server: ServerProcess, tmp_path: Path
) -> None:
    program = tmp_path / "hello.py"
    program.write_text(
        "import sys\nsys.stdout.buffer.write(b'\\xff' + sys.stdin.buffer.read())\n"
        "print(sys.argv[1:], open('data.csv').read(), file=sys.stderr)\n"
        "open('made.txt', 'w').write('made')\nsys.exit(9)\n"
    )
    (tmp_path / "data.csv").write_text("1,2")
    (tmp_path / "input").write_bytes(b"in")
    words = ["sandbox", "run", program, "--url", sandbox_server.url, "--stdin", tmp_path / "input",
             "--file", tmp_path / "data.csv", "--artifact", "*.txt", "--out", tmp_path / "out",
             "--", "-x", "y"]  # fmt: skip
    key = {"MONKEY_CODER_API_KEY": sandbox_server.key}
    done = command(*words, env=key, check=False, errors="surrogateescape")

    assert done.returncode == 9
    assert done.stdout == "\udcffin"
    assert done.stderr.startswith("['-x', 'y'] 1,2\n")
    assert (tmp_path / "out" / "made.txt").read_text() == "made"
    again = command(*words, env=key, check=False, errors="surrogateescape")
    assert (again.returncode, "overwrite with --force" in again.stderr) == (1, True)


def test_command_when_the_sandbox_ends_the_program_then_its_status_says_so(
    sandbox_server: ServerProcess, tmp_path: Path
) -> None:
    key = {"MONKEY_CODER_API_KEY": sandbox_server.key}
    where = ("--url", sandbox_server.url)
    for code, status in (("sleep 9", 124), ("kill -15 $$", 143)):
        (tmp_path / "x.sh").write_text(code)
        words = ("sandbox", "run", tmp_path / "x.sh", "--timeout", "1", *where)
        assert command(*words, env=key, check=False).returncode == status
    (tmp_path / "x.unknown").write_text("")
    unknown = command("sandbox", "run", tmp_path / "x.unknown", *where, env=key, check=False)
    assert (unknown.returncode, "use --language" in unknown.stderr) == (1, True)
    listed = command("sandbox", "languages", *where, env=key).stdout
    assert "python" in listed
