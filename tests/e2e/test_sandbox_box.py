"""Programs of callers through a real box: what they get, and what they can't do."""

import base64
import contextlib
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.box import Box, command, running_box
from tests.support.sandbox import orphaned_sandboxes, seen_on_the_host

RUN = "/api/v1/sandbox/run"
PISTON = "/api/v2/execute"
DEADLINE_S = 30


@pytest.fixture(scope="module")
def sandbox_box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """A box without a model, with room for two runs and two that wait."""
    home = tmp_path_factory.mktemp("sandbox")
    with running_box(home / "data", None, **small_box()) as box:
        box.make_key()
        with box.client() as client:
            offer = client.get("/api/v1/sandbox/languages?wait=true").json()
        if not offer["available"]:
            pytest.skip(f"this machine can't confine: {offer['problem']}. {offer['remedy']}")
        yield box


def small_box() -> dict[str, str]:
    names = {
        "PARALLEL_RUNS": 2,
        "QUEUE_LIMIT": 2,
        "MEMORY_MIB": 128,
        "PROCESSES": 32,
        "LANGUAGES": "*",
    }
    small = {f"MONKEY_CODER__SANDBOX__{name}": str(value) for name, value in names.items()}
    return {**small, "MONKEY_CODER__MODELS__PRELOAD": "false"}


@pytest.fixture
def sandbox(sandbox_box: Box) -> Iterator[httpx.Client]:
    with sandbox_box.client() as client:
        yield client


def python(client: httpx.Client, code: str, **more: Any) -> dict[str, Any]:
    answer = client.post(RUN, json={"language": "python", "code": code, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def error_of(answer: httpx.Response) -> tuple[int, str, str]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["message"]


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
        pytest.skip("this machine has no Java")

    assert answer.json()["stdout"] == "in it\n", answer.json()


@pytest.mark.parametrize("language", list(WORKS))
def test_language_when_listed_then_its_programs_are_built_and_run(
    language: str, sandbox: httpx.Client
) -> None:
    offer = sandbox.get("/api/v1/sandbox/languages").json()
    assert offer["complete"]
    if not any(language in (each["name"], *each["aliases"]) for each in offer["languages"]):
        pytest.skip(f"this machine has no {language}")
    body = {"language": language, "code": WORKS[language], "args": ["said it"]}
    answer = sandbox.post(RUN, json=body).json()

    assert (answer["stdout"], answer["exit_code"]) == ("said it\n", 4), answer


def test_build_when_it_fails_then_the_compiler_is_heard(sandbox: httpx.Client) -> None:
    answer = sandbox.post(RUN, json={"language": "c", "code": "int main( { }"})
    if answer.status_code == 400:
        pytest.skip("this machine has no C")

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

    assert [frame["type"] for frame in frames] == ["queued", "started", "stdout", "result"]
    assert frames[1]["live"] is True
    assert frames[2]["text"] == "ready ä\n"
    assert frames[3]["result"]["reason"] == "wall_time"


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
    "empty object": ({}, "language: is missing"),
    "no body": (b"", "body"),
    "list": ([], "Expected `object`"),
    "half": (b'{"language"', "body"),
    "unknown field": ({"argv": ["true"], "image": "x"}, "image"),
    "both": ({"language": "sh", "argv": ["sh"], **{"code": ""}}, "argv: and a language exclude"),
    "wrong type": ({"language": 7}, "language"),
    "no files": ({"language": "sh"}, "files: are missing"),
    "unknown language": ({"language": "cobol", "code": ""}, "'cobol' can't be run here"),
    "code alone": ({"code": "x"}, "code: needs a language"),
    "traversal": (files("../x.sh"), "files[0].path: must not leave"),
    "absolute": (files("/etc/x"), "files[0].path: must be relative"),
    "home": (files("~/x"), "files[0].path"),
    "control": (files("a\nb"), "files[0].path"),
    "nul": (files("a\0b"), "files[0].path"),
    "twice": (files("a", "a"), "two files are called 'a'"),
    "file and folder": (files("a", "a/b"), "a file and a folder at once"),
    "long name": (files("x" * 300), "too long"),
    "bad entry": ({**files("a"), "entry": "b"}, "entry: 'b' is none of the files"),
    "bad base64": (
        {"language": "sh", "files": [{"path": "a", "content": "§", "encoding": "base64"}]},
        "files[0].content: is no base64",
    ),
    "higher limit": ({"argv": ["true"], "limits": {"wall_s": 11}}, "limits.wall_s: 11 is not"),
    "negative limit": ({"argv": ["true"], "limits": {"memory_bytes": -1}}, "limits.memory_bytes"),
    "unknown limit": ({"argv": ["true"], "limits": {"disks": 1}}, "disks"),
    "limit of many digits": (
        b'{"argv":["true"],"limits":{"memory_bytes":' + b"9" * 400 + b"}}", "hundreds of digits"
    ),
    "text limit": ({"argv": ["true"], "limits": {"wall_s": "long"}}, "wall_s"),
    "bad variable": ({"argv": ["true"], "environment": {"A=B": "x"}}, "environment"),
    "nul in argv": ({"argv": ["a\0"]}, "argv"),
    "many patterns": ({"argv": ["true"], "artifacts": ["*"] * 33}, "artifacts: are 33"),
    "bad pattern": ({"argv": ["true"], "artifacts": [""]}, "artifacts"),
    "too many files": (files(*(f"f{n}" for n in range(1001))), "files: are 1001"),
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
    sent: dict[str, Any] = {"content": body} if isinstance(body, bytes) else {"json": body}
    answer = sandbox.post(RUN, headers={"Content-Type": "application/json"}, **sent)

    status, code, message = error_of(answer)
    assert (status, code) == (400, "VALIDATION_ERROR"), answer.text
    assert words in message


def test_run_when_the_body_is_huge_then_refused(sandbox: httpx.Client) -> None:
    answer = sandbox.post(RUN, json={"argv": ["true"], "stdin": "x" * 20_000_000})

    assert error_of(answer)[:2] == (413, "PAYLOAD_TOO_LARGE")


def test_rights_when_the_key_lacks_the_scope_then_forbidden(sandbox_box: Box) -> None:
    data = ("--data-dir", sandbox_box.data_dir)
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
        with sandbox_box.client(key) as client:
            answers = [
                client.post(RUN, json={"argv": ["true"]}),
                client.get("/api/v1/sandbox/languages"),
                client.get("/api/v2/runtimes"),
            ]
        assert {answer.status_code for answer in answers} == {200 if allowed else 403}, user


def test_every_route_when_nobody_is_logged_in_then_401(sandbox_box: Box) -> None:
    with httpx.Client(base_url=sandbox_box.url) as nobody:
        posts = [nobody.post(path, json={}) for path in (RUN, f"{RUN}/stream", PISTON)]
        gets = [nobody.get(path) for path in ("/api/v1/sandbox/languages", "/api/v2/runtimes")]
    assert {answer.status_code for answer in (*posts, *gets)} == {401}
    assert posts[2].json().keys() == {"message"}


def test_queue_when_full_then_refused_with_the_place(sandbox_box: Box) -> None:
    body = {"argv": ["sh", "-c", "read x; sleep 3"], "limits": {"wall_s": 3}}
    with sandbox_box.client() as client, ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(client.post, RUN, json=body) for _ in range(8)]
        answers = [each.result(DEADLINE_S) for each in asked]

    refused = [answer for answer in answers if answer.status_code == 503]
    assert {answer.status_code for answer in answers} == {200, 503}
    assert refused[0].json()["error"]["code"] == "QUEUE_FULL"
    assert refused[0].json()["error"]["details"]["place"] == 3
    assert int(refused[0].headers["retry-after"]) >= 1


@pytest.mark.parametrize("path", [RUN, f"{RUN}/stream"])
def test_client_when_it_goes_away_then_its_run_ends(path: str, sandbox_box: Box) -> None:
    mark = f"gone-{path.count('/')}-{os.getpid()}"
    body = {"argv": ["sh", "-c", f"sleep 9; : {mark}"]}

    def ask_and_leave() -> None:
        with sandbox_box.client() as client, contextlib.suppress(httpx.TimeoutException):
            client.post(path, json=body, timeout=1.5)

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask_and_leave)
        until_seen(mark, 1)
        asked.result(DEADLINE_S)
    until_unseen(mark, 5)


ATTACKS: dict[str, tuple[str, set[str]]] = {
    "fork bomb": (
        "import os\nwhile True:\n try: os.fork()\n except OSError: pass",
        {"wall_time", "cpu_time", "memory"},
    ),
    "memory in one process": ("x = [bytearray(1 << 20) for _ in range(1000)]", {"exited"}),
    "memory in many processes": (
        "import os, time\nfor _ in range(8):\n if os.fork() == 0: break\n"
        "x = os.urandom(1 << 20) * 30\ntime.sleep(60)",
        {"memory"},
    ),
    "shared memory": (
        "import mmap, time\nm = []\nwhile True:\n m.append(mmap.mmap(-1, 8 << 20)); "
        "m[-1].write(b'x' * (8 << 20)); time.sleep(.01)",
        {"memory"},
    ),
    "endless output": ("while True: print('x' * 10000)", {"output"}),
    "ignored signals": (
        "import signal, time\nfor n in range(1, 32):\n"
        " try: signal.signal(n, signal.SIG_IGN)\n except OSError: pass\ntime.sleep(60)",
        {"wall_time"},
    ),
    "daemon": (
        "import os, time\nif os.fork() == 0:\n os.setsid(); time.sleep(60)\nprint('left')",
        {"exited"},
    ),
}


@pytest.mark.parametrize("name", list(ATTACKS))
def test_attack_when_a_program_wants_too_much_then_it_is_stopped_and_the_box_goes_on(
    name: str, sandbox: httpx.Client
) -> None:
    code, reasons = ATTACKS[name]
    mark = f"attack-{os.getpid()}-{list(ATTACKS).index(name)}"
    body = {"argv": ["python", "-c", f"{code}\n# {mark}"], "limits": {"wall_s": 3}}
    answer = sandbox.post(RUN, json=body).json()

    assert answer["reason"] in reasons, answer
    assert not answer["ok"] or name == "daemon"
    assert not seen_on_the_host(mark)
    assert python(sandbox, "print('still here')")["stdout"] == "still here\n"


def test_artifacts_when_the_program_plays_tricks_then_only_its_own_files_come_out(
    sandbox: httpx.Client,
) -> None:
    code = """
import os
open('good.txt', 'w').write('good')
os.symlink('/etc/passwd', 'passwd.txt'); os.symlink('/proc/1/environ', 'environ.txt')
os.symlink('/', 'root'); os.symlink('good.txt', 'good-link.txt')
os.link('good.txt', 'second-name.txt'); os.mkfifo('fifo.txt'); os.mkdir('folder.txt')
open('one.txt', 'w').write('1')
os.makedirs('a/b'); os.symlink('../..', 'a/b/up.txt')
open('a/b/deep.txt', 'w').write('deep')
fd = os.open('sparse.txt', os.O_CREAT | os.O_WRONLY); os.ftruncate(fd, 60 << 20)
open(b'\\xff.txt', 'w'); open('new\\nline.txt', 'w').write('x')
"""
    patterns = ["**/*.txt", "root/**", "../**", "/etc/*"]
    answer = python(sandbox, code, artifacts=patterns)

    found = {each["path"]: each["content"] for each in answer["artifacts"]}
    assert found == {"one.txt": "1", "a/b/deep.txt": "deep", "new\nline.txt": "x"}
    refused = "\n".join(answer["artifacts_refused"])
    for name in ("passwd", "environ", "good.txt", "good-link", "second-name", "fifo", "up.txt",
                 "sparse", "udcff"):  # fmt: skip
        assert name in refused


@pytest.mark.parametrize("name", ["{sources}", "a b;c.sh", "-rf", "$(id).sh", "'\"`", "{main}.sh"])
def test_file_when_its_name_is_odd_then_it_is_a_name_and_nothing_else(
    name: str, sandbox: httpx.Client
) -> None:
    body = {"language": "sh", "files": [{"path": name, "content": "echo ran"}]}

    assert sandbox.post(RUN, json=body).json()["stdout"] == "ran\n"


def test_piston_when_its_client_asks_then_answered_in_its_shape(sandbox: httpx.Client) -> None:
    body = {
        "language": "py",
        "version": "3.x",
        "files": [{"name": "main.py", "content": "aW1wb3J0IHN5cw==", "encoding": "base64"}],
    }
    code = "import sys; print(sys.argv[1], input()); sys.exit(2)"
    for path in (PISTON, "/api/v2/piston/execute"):
        given = {**body, "files": [{"content": code}], "args": ["a"], "stdin": "b"}
        answer = sandbox.post(path, json=given).json()
        assert answer["run"]["output"] == "a b\n"
        assert (answer["run"]["code"], answer["run"]["status"]) == (2, "RE")
        assert answer["run"]["memory"] > 0
        assert "compile" not in answer
    assert sandbox.post(PISTON, json=body).json()["run"]["code"] == 0
    listed = sandbox.get("/api/v2/piston/runtimes").json()
    assert {"python", "bash"} & {each["language"] for each in listed}


PISTON_WRONG: dict[str, dict[str, Any]] = {
    "no version": {"language": "python", "files": [{"content": ""}]},
    "no files": {"language": "python", "version": "*", "files": []},
    "other version": {"language": "python", "version": "2.7", "files": [{"content": ""}]},
    "long version": {"language": "python", "version": "9" * 10_000, "files": [{"content": ""}]},
    "odd version": {"language": "python", "version": "; rm", "files": [{"content": ""}]},
    "other language": {"language": "cobol", "version": "*", "files": [{"content": ""}]},
    "time": {"language": "python", "version": "*", "files": [{"content": ""}],
             "run_timeout": 99_999},
    "memory": {"language": "python", "version": "*", "files": [{"content": ""}],
               "run_memory_limit": 2**40},
    "path": {"language": "python", "version": "*", "files": [{"name": "../x", "content": ""}]},
}  # fmt: skip


@pytest.mark.parametrize("name", list(PISTON_WRONG))
def test_piston_when_the_request_is_wrong_then_a_message(name: str, sandbox: httpx.Client) -> None:
    answer = sandbox.post(PISTON, json=PISTON_WRONG[name])

    assert answer.status_code == 400
    assert answer.json().keys() == {"message"}


def test_piston_when_its_client_looks_for_packages_then_those_that_run(
    sandbox: httpx.Client,
) -> None:
    listed = sandbox.get("/api/v2/packages").json()
    python = next(each for each in listed if each["language"] == "python")
    assert python["installed"]

    there = {"language": "python", "version": python["language_version"]}
    assert sandbox.post("/api/v2/packages", json=there).json() == there
    missing = sandbox.post("/api/v2/piston/packages", json={**there, "language": "cobol"})
    assert (missing.status_code, missing.json().keys()) == (404, {"message"})
    assert sandbox.request("DELETE", "/api/v2/packages", json=there).status_code == 405


def test_piston_when_a_compiler_fails_then_both_stages_show_it(sandbox: httpx.Client) -> None:
    body = {"language": "gcc", "version": "*", "files": [{"content": "int main({"}]}
    answer = sandbox.post(PISTON, json={**body, "stdin": None, "args": None})
    if answer.status_code == 400:
        pytest.skip("this machine has no C")

    assert answer.json()["run"] == answer.json()["compile"]
    assert (answer.json()["run"]["code"], answer.json()["run"]["signal"]) == (1, None)
    assert "error" in answer.json()["run"]["stderr"]
    assert answer.json()["run"]["wall_time"] > 0


def test_piston_when_the_time_is_over_then_its_status_says_so(sandbox: httpx.Client) -> None:
    body = {"language": "bash", "version": "*", "files": [{"content": "sleep 9"}]}
    answer = sandbox.post(PISTON, json={**body, "run_timeout": 500}).json()

    assert (answer["run"]["status"], answer["run"]["signal"]) == ("TO", "SIGKILL")
    assert answer["run"]["code"] is None


def test_command_when_it_runs_a_file_then_output_status_and_files_are_passed_on(
    sandbox_box: Box, tmp_path: Path
) -> None:
    program = tmp_path / "hello.py"
    program.write_text(
        "import sys\nsys.stdout.buffer.write(b'\\xff' + sys.stdin.buffer.read())\n"
        "print(sys.argv[1:], open('data.csv').read(), file=sys.stderr)\n"
        "open('made.txt', 'w').write('made')\nsys.exit(9)\n"
    )
    (tmp_path / "data.csv").write_text("1,2")
    (tmp_path / "input").write_bytes(b"in")
    words = ["sandbox", "run", program, "--url", sandbox_box.url, "--stdin", tmp_path / "input",
             "--file", tmp_path / "data.csv", "--artifact", "*.txt", "--out", tmp_path / "out",
             "--", "-x", "y"]  # fmt: skip
    key = {"MONKEY_CODER_API_KEY": sandbox_box.key}
    done = command(*words, env=key, check=False, errors="surrogateescape")

    assert done.returncode == 9
    assert done.stdout == "\udcffin"
    assert done.stderr.startswith("['-x', 'y'] 1,2\n")
    assert (tmp_path / "out" / "made.txt").read_text() == "made"
    again = command(*words, env=key, check=False, errors="surrogateescape")
    assert (again.returncode, "overwrite with --force" in again.stderr) == (1, True)


def test_command_when_the_sandbox_ends_the_program_then_its_status_says_so(
    sandbox_box: Box, tmp_path: Path
) -> None:
    key = {"MONKEY_CODER_API_KEY": sandbox_box.key}
    where = ("--url", sandbox_box.url)
    for code, status in (("sleep 9", 124), ("kill -15 $$", 143)):
        (tmp_path / "x.sh").write_text(code)
        words = ("sandbox", "run", tmp_path / "x.sh", "--timeout", "1", *where)
        assert command(*words, env=key, check=False).returncode == status
    (tmp_path / "x.unknown").write_text("")
    unknown = command("sandbox", "run", tmp_path / "x.unknown", *where, env=key, check=False)
    assert (unknown.returncode, "use --language" in unknown.stderr) == (1, True)
    listed = command("sandbox", "languages", *where, env=key).stdout
    assert "python" in listed


def test_box_when_killed_in_the_middle_then_no_process_and_no_control_group_is_left(
    sandbox_box: Box,
) -> None:
    before, groups = orphaned_sandboxes(), control_groups(sandbox_box)
    mark = f"killed-{os.getpid()}"
    body = {"argv": ["sh", "-c", f"sleep 9 & sleep 9; : {mark}"]}

    def run() -> None:
        with sandbox_box.client() as client, contextlib.suppress(httpx.TransportError):
            client.post(RUN, json=body)

    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(run) for _ in range(2)]
        until_seen(mark, 2)
        sandbox_box.kill()
        for each in runs:
            each.result(DEADLINE_S)
    until_unseen(mark, DEADLINE_S)
    deadline = time.monotonic() + DEADLINE_S
    while orphaned_sandboxes() - before or any(group.exists() for group in groups):
        assert time.monotonic() < deadline, (orphaned_sandboxes() - before, groups)
        time.sleep(0.05)

    sandbox_box.start()
    with sandbox_box.client() as client:
        assert python(client, "print('again')")["stdout"] == "again\n"


def until_seen(mark: str, count: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while len(seen_on_the_host(mark)) < count:
        assert time.monotonic() < deadline, mark
        time.sleep(0.02)


def until_unseen(mark: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while seen := seen_on_the_host(mark):
        assert time.monotonic() < deadline, seen
        time.sleep(0.05)


def control_groups(box: Box) -> list[Path]:
    assert box.process is not None
    root, mine = Path("/sys/fs/cgroup"), f"monkey-coder-{box.process.pid}-*"
    depths = ("*", "*/*", "*/*/*", "*/*/*/*")
    return [path for depth in depths for path in root.glob(f"{depth}/{mine}")]
