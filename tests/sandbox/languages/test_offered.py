"""Commands of languages that the setting sandbox.languages does not offer."""

import pytest

from appliance.domain.execution import RunRequest, SandboxFile
from appliance.domain.language_programs import PROGRAMS, is_hidden, language_of_program
from appliance.errors import InvalidInput
from appliance.sandbox.languages import recipes
from appliance.sandbox.languages.offered import check_command

PYTHON_ONLY = ("python",)


@pytest.mark.parametrize(
    ("program", "language"),
    [
        ("node", "node"),
        ("/usr/bin/nodejs", "node"),
        ("node-20.1", "node"),
        ("python3.11", "python"),
        ("gcc-12", "c"),
        ("x86_64-linux-gnu-gcc-12", "c"),
        ("x86_64-linux-gnu-g++", "cpp"),
        ("c99-gcc", "c"),
        ("nodes", None),
        ("", None),
        ("./main", None),
    ],
)
def test_program_when_named_in_any_way_then_its_language(
    program: str, language: str | None
) -> None:
    assert language_of_program(program) == language


def test_recipes_when_compared_with_the_programs_then_none_is_missing() -> None:
    assert {each.name: each.name for each in recipes.RECIPES} == {
        each.name: language_of_program(each.tool) for each in recipes.RECIPES
    }
    assert PROGRAMS.keys() == {each.name for each in recipes.RECIPES}


@pytest.mark.parametrize(
    ("argv", "line", "refused"),
    [
        (("node", "a.js"), b"", "node"),
        (("/usr/bin/nodejs",), b"", "nodejs"),
        (("./a",), b"#!/usr/bin/env node\n", "node"),
        (("a",), b"#! /usr/bin/env -S node --x\r\n", "node"),
        (("/workspace/a",), b"#!/bin/bash", "bash"),
        (("gcc", "a.c"), b"", "gcc"),
    ],
)
def test_command_when_its_language_is_not_offered_then_refused_with_the_reason(
    argv: tuple[str, ...], line: bytes, refused: str
) -> None:
    """F71"""
    request = RunRequest(argv, files=(SandboxFile("a", line),))

    with pytest.raises(InvalidInput, match=f"{refused} is a program of the language .* not offer"):
        check_command(request, PYTHON_ONLY)
    check_command(request, ("*",))


@pytest.mark.parametrize("argv", [("python", "a"), ("sh", "a"), ("./a",), ("cat", "a")])
def test_command_when_of_no_refused_language_then_accepted(argv: tuple[str, ...]) -> None:
    check_command(RunRequest(argv, files=(SandboxFile("a", b"#!/bin/sh\n"),)), PYTHON_ONLY)


def test_program_when_an_offered_language_needs_it_then_not_hidden() -> None:
    assert is_hidden("gcc", PYTHON_ONLY)
    assert not is_hidden("gcc", ("rust",))
    assert not is_hidden("python3", ("node",))
