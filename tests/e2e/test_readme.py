"""The README's own commands and examples, run as they stand."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.support.server_process import PROGRAM, ServerProcess, clean_env

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
SHELL = [body for language, body in BLOCKS if language == "sh"]
PYTHON = [body for language, body in BLOCKS if language == "python"]
TIMEOUT_S = 240


def shell(script: str, server: ServerProcess, bin_folder: Path) -> str:
    """Run a block as a newcomer would paste it, with the program on the PATH."""
    address = {"MONKEY_CODER_URL": server.url, "MONKEY_CODER_API_KEY": server.key}
    path = f"{bin_folder}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", script],
        env=clean_env({**address, "PATH": path, "MONKEY_CODER__DATA__DIR": str(server.data_dir)}),
        cwd=bin_folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def block_with(text: str) -> str:
    return next(body for body in SHELL if text in body)


@pytest.fixture
def bin_folder(tmp_path: Path) -> Path:
    """A folder with the program in it, as after copying it to a machine."""
    program = tmp_path / "monkey-coder"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {" ".join(PROGRAM)} "$@"\n')
    program.chmod(0o755)
    return tmp_path


@pytest.fixture
def new_server(tmp_path: Path) -> Generator[ServerProcess, None, None]:
    server = ServerProcess(tmp_path / "data")
    yield server
    if server.process is not None:
        server.stop()


def test_newcomers_commands_when_read_then_ci_runs_each() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    for block in SHELL[:3]:
        command = block.strip().removeprefix("pip install uv && ")
        words = command.split()
        assert words[:2] == ["uv", "run"]
        assert all(word in ci for word in words[2:]), command


def test_install_commands_when_run_in_order_then_each_works(
    new_server: ServerProcess, bin_folder: Path, starter_model: Path
) -> None:
    script = block_with("./monkey-coder model add")
    script = script.replace("/path/to/model.gguf", str(starter_model))
    script = script.replace("./monkey-coder serve\n", "")
    password = "export PASSWORD='a long password'\n"
    script = script.replace("--role admin", '--role admin --password-stdin <<< "$PASSWORD"')
    printed = shell(password + script, new_server, bin_folder)
    assert "Serving would work" in printed
    key = printed.strip().splitlines()[-1]
    new_server.start()
    new_server.key = key
    with new_server.client() as client:
        assert client.get("/api/v1/auth/status").json()["user"]["username"] == "alice"


def test_curl_when_pasted_then_the_verified_answer(server: ServerProcess, bin_folder: Path) -> None:
    answer = json.loads(shell(block_with("curl -s "), server, bin_folder))
    assert answer["status"] == "completed"
    assert answer["verification"]["level"] == "examples"
    streamed = shell(block_with("curl -sN"), server, bin_folder)
    assert '"type":"complete"' in streamed


def test_python_when_pasted_then_an_answer(server: ServerProcess, bin_folder: Path) -> None:
    script = bin_folder / "example.py"
    script.write_text(PYTHON[0])
    printed = shell(f"{sys.executable} {script}", server, bin_folder)
    assert "caller_tests" in printed


def test_official_packages_when_pasted_then_both_answer(
    server: ServerProcess, bin_folder: Path
) -> None:
    script = bin_folder / "clients.py"
    script.write_text(PYTHON[1])
    assert shell(f"{sys.executable} {script}", server, bin_folder).strip()


def test_sandbox_run_when_pasted_then_the_programs_output(
    server: ServerProcess, bin_folder: Path
) -> None:
    assert shell(block_with("sandbox run"), server, bin_folder) == "42\n"


def test_task_run_when_pasted_then_the_code(server: ServerProcess, bin_folder: Path) -> None:
    assert "is_even" in shell(block_with("task run"), server, bin_folder)


def test_config_show_when_pasted_then_settings_with_their_origin(
    server: ServerProcess, bin_folder: Path
) -> None:
    assert "monkey-coder config show --origin" in README
    assert "default" in shell("monkey-coder config show --origin", server, bin_folder)
