"""Piston's HTTP API on a real server."""

from typing import Any

import httpx
import pytest

from tests.support.sandbox_server import PISTON


def test_piston_when_its_client_asks_then_answered_in_its_shape(sandbox: httpx.Client) -> None:
    body = {
        "language": "py",
        "version": "3.x",
        "files": [{"name": "main.py", "content": "aW1wb3J0IHN5cw==", "encoding": "base64"}],
    }
    code = "import sys; print(sys.argv[1], input()); sys.exit(2)"
    for path in (PISTON, "/api/v2/piston/execute"):
        program = {**body, "files": [{"content": code}], "args": ["a"], "stdin": "b"}
        answer = sandbox.post(path, json=program).json()
        assert answer["run"]["output"] == "a b\n"
        assert (answer["run"]["code"], answer["run"]["status"]) == (2, "RE")
        assert answer["run"]["memory"] > 0
        assert "compile" not in answer
    assert sandbox.post(PISTON, json=body).json()["run"]["code"] == 0
    runtimes = sandbox.get("/api/v2/piston/runtimes").json()
    assert {"python", "bash"} & {each["language"] for each in runtimes}


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
    packages = sandbox.get("/api/v2/packages").json()
    python = next(each for each in packages if each["language"] == "python")
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
        pytest.skip("needs c: no compiler on this machine")

    assert answer.json()["run"] == answer.json()["compile"]
    assert (answer.json()["run"]["code"], answer.json()["run"]["signal"]) == (1, None)
    assert "error" in answer.json()["run"]["stderr"]
    assert answer.json()["run"]["wall_time"] > 0


def test_piston_when_the_time_is_over_then_its_status_says_so(sandbox: httpx.Client) -> None:
    body = {"language": "bash", "version": "*", "files": [{"content": "sleep 9"}]}
    answer = sandbox.post(PISTON, json={**body, "run_timeout": 500}).json()

    assert (answer["run"]["status"], answer["run"]["signal"]) == ("TO", "SIGKILL")
    assert answer["run"]["code"] is None


COMPILED = {"language": "c", "version": "*"}


def test_piston_when_a_compiled_program_hangs_then_ended_in_its_own_time(
    sandbox: httpx.Client,
) -> None:
    """F2, F3"""
    body = {**COMPILED, "files": [{"content": "int main() { for (;;); }"}], "run_timeout": 1000}
    answer = sandbox.post(PISTON, json=body)
    if answer.status_code == 400:
        pytest.skip("needs c: no compiler on this machine")

    run, compiled = answer.json()["run"], answer.json()["compile"]
    assert (run["status"], run["signal"]) == ("TO", "SIGKILL")
    assert 1000 <= run["wall_time"] < 5000
    assert (compiled["code"], compiled["status"]) == (0, None)
    assert compiled["wall_time"] > 0


def test_piston_when_the_compiler_hangs_then_ended_in_its_own_time(sandbox: httpx.Client) -> None:
    """F2, F3"""
    slow = "constexpr int f(int x) { for (int i = 0; i < 200000; i++) x ^= i; return x; }\n"
    calls = ", ".join(f"f({number})" for number in range(100))
    content = f"{slow}constexpr int a[] = {{{calls}}};\nint main() {{ return 0; }}"
    body = {**COMPILED, "language": "c++", "files": [{"content": content}]}
    answer = sandbox.post(PISTON, json={**body, "compile_timeout": 300})
    if answer.status_code == 400:
        pytest.skip("needs c++: no compiler on this machine")

    assert answer.json()["run"] == answer.json()["compile"]
    assert answer.json()["run"]["status"] == "TO"


@pytest.mark.parametrize("name", ["main.java", "solution.java", "Main.java", None])
def test_piston_when_java_files_have_any_name_then_they_run(
    sandbox: httpx.Client, name: str | None
) -> None:
    """F4"""
    code = 'public class Main { public static void main(String[] a) { System.out.print("ok"); } }'
    file = {"content": code} if name is None else {"name": name, "content": code}
    answer = sandbox.post(PISTON, json={"language": "java", "version": "*", "files": [file]})
    if answer.status_code == 400:
        pytest.skip("needs java: no compiler on this machine")

    assert answer.json()["run"]["stdout"] == "ok", answer.json()


def test_piston_when_a_program_opens_its_streams_by_name_then_they_are_its_own(
    sandbox: httpx.Client,
) -> None:
    """F1"""
    code = "print(open('/dev/stdin').read()); open('/dev/stderr', 'w').write('e')"
    body = {"language": "python", "version": "*", "files": [{"content": code}], "stdin": "abc"}
    run = sandbox.post(PISTON, json=body).json()["run"]

    assert (run["stdout"], run["stderr"]) == ("abc\n", "e")
