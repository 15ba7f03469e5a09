"""What `sandbox run` sends of a program: its language, its files, its words."""

import base64
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from appliance.cli.support import program_request
from appliance.errors import InvalidInput

LANGUAGES: list[dict[str, Any]] = [
    {"name": "bash", "aliases": [], "extensions": ["bash", "sh"]},
    {"name": "node", "aliases": ["js", "nodejs"], "extensions": ["js"]},
    {"name": "python", "aliases": ["py", "python3"], "extensions": ["py"]},
    {"name": "sh", "aliases": ["shell"], "extensions": ["sh"]},
]
OPTIONS: dict[str, Any] = {"files": (), "timeout": None, "stdin": None, "artifacts": ()}


@pytest.mark.parametrize(
    ("name", "first", "language"),
    [
        ("a.py", "print()", "python"),
        ("a.sh", "echo", "sh"),
        ("a.bash", "echo", "bash"),
        ("a.sh", "#!/bin/bash", "bash"),
        ("a.sh", "#!/bin/sh -e", "sh"),
        ("tool", "#!/usr/bin/env python3.11", "python"),
        ("tool", "#!/usr/bin/env -S node --harmony", "node"),
        ("tool", "#! /usr/bin/python3", "python"),
        ("a.py", "#!/usr/bin/perl", "python"),
        ("a.py", "#!", "python"),
        ("A.PY", "", "python"),
    ],
)
def test_language_when_the_file_tells_it_then_found(
    name: str, first: str, language: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(f"{first}\nrest")

    assert program_request.require_language(tmp_path / name, LANGUAGES) == language


@pytest.mark.parametrize(
    ("name", "first", "language"),
    [
        ("a.py", "print()", "python"),
        ("a.py", "#!/usr/bin/python3", "python"),
        ("a.sh", "#!/bin/zsh", None),
        ("a.rb", "puts", None),
    ],
)
def test_language_when_some_are_not_known_yet_then_found_only_if_sure(
    name: str, first: str, language: str | None, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(first)
    found = program_request.detect_language(tmp_path / name, LANGUAGES, complete=False)

    assert found == language


@pytest.mark.parametrize("content", [b"", b"#!/usr/bin/perl\n", b"\xff\xfe", b"#!\xff"])
def test_language_when_nothing_tells_it_then_those_that_there_are(
    content: bytes, tmp_path: Path
) -> None:
    (tmp_path / "a.rb").write_bytes(content)
    with pytest.raises(InvalidInput, match=r"\(bash, node, python, sh\); use --language"):
        program_request.require_language(tmp_path / "a.rb", LANGUAGES)


def test_body_when_files_lie_here_and_elsewhere_then_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    (here / "sub").mkdir(parents=True)
    monkeypatch.chdir(here)
    paths = (here / "sub" / "ä b.py", tmp_path / "other.py")
    for path in paths:
        path.write_bytes(b"\xff")
    sent = program_request.build_body(paths[0], ["-x"], "python", {**OPTIONS, "files": paths[1:]})

    assert [each["path"] for each in sent["files"]] == ["sub/ä b.py", "other.py"]
    assert base64.b64decode(sent["files"][0]["content"]) == b"\xff"
    assert (sent["args"], sent["limits"]) == (["-x"], {})


def test_body_when_a_word_is_no_text_then_named(tmp_path: Path) -> None:
    odd = os.fsdecode(b"bad\xff")
    good = tmp_path / "a.py"
    good.write_text("")
    bad = tmp_path / odd
    try:
        bad.write_text("")
    except OSError:
        pytest.skip("this file system takes no such names")
    with pytest.raises(InvalidInput, match="an argument is not UTF-8"):
        program_request.build_body(good, [odd], "python", OPTIONS)
    with pytest.raises(InvalidInput, match="the name of a file is not UTF-8"):
        program_request.build_body(bad, [], "python", OPTIONS)
    with pytest.raises(InvalidInput, match="--artifact is not UTF-8"):
        program_request.build_body(good, [], "python", {**OPTIONS, "artifacts": (odd,)})


def test_body_when_a_file_is_too_large_or_gone_then_named(tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(9_000_000)
    with pytest.raises(InvalidInput, match="large: more than the 8388608 bytes"):
        program_request.build_body(large, [], "python", OPTIONS)
    with pytest.raises(InvalidInput, match="gone: No such file"):
        program_request.build_body(tmp_path / "gone", [], "python", OPTIONS)


@pytest.mark.parametrize(("option", "sent"), [("None", "abc"), ("Path('/dev/null')", "")])
def test_body_when_stdin_is_no_terminal_then_it_is_the_input(
    tmp_path: Path, option: str, sent: str
) -> None:
    """F6"""
    (tmp_path / "a.py").write_text("")
    code = (
        "from pathlib import Path; import base64\n"
        "from appliance.cli.support import program_request as r\n"
        f"options = dict(files=(), timeout=None, artifacts=(), stdin={option})\n"
        "body = r.build_body(Path('a.py'), (), 'python', options)\n"
        "print(base64.b64decode(body['stdin']).decode())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        input=b"abc",
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )
    assert done.stdout.decode() == f"{sent}\n"
