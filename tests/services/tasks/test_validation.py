import math
from typing import Any

import pytest

from appliance.config.settings import LimitSettings
from appliance.domain.tasks import SourceFile, TaskRequest
from appliance.errors import InvalidInput, PayloadTooLarge
from appliance.services.tasks.validation import validate_request

LIMITS = LimitSettings(prompt_bytes=100, files=4, file_bytes=50)


def _check(prompt: str = "write it", **more: Any) -> TaskRequest:
    return validate_request(TaskRequest(prompt=prompt, **more), LIMITS, max_branches=8)


def _file(path: str, content: str = "x") -> tuple[SourceFile, ...]:
    return (SourceFile(path, content),)


@pytest.mark.parametrize(
    ("field", "request_fields"),
    [
        ("prompt", {"prompt": ""}),
        ("prompt", {"prompt": " \n\t\u3000"}),
        ("prompt", {"prompt": "a\0b"}),
        ("prompt", {"prompt": "half \ud83d"}),
        ("instructions", {"instructions": "a\0b"}),
        ("context", {"context": {"a": object()}}),
        ("context", {"context": {"a": "\ud800"}}),
        ("task_id", {"client_task_id": ""}),
        ("task_id", {"client_task_id": "a b"}),
        ("task_id", {"client_task_id": "a/b"}),
        ("task_id", {"client_task_id": "a\n"}),
        ("task_id", {"client_task_id": "ü"}),
        ("task_id", {"client_task_id": "x" * 129}),
        ("branches", {"branches": 0}),
        ("branches", {"branches": 9}),
        ("temperature", {"temperature": -0.1}),
        ("temperature", {"temperature": 2.1}),
        ("temperature", {"temperature": math.nan}),
        ("seed", {"seed": -1}),
        ("seed", {"seed": 2**32}),
        ("max_tokens", {"max_tokens": 0}),
        ("timeout_s", {"timeout_s": 0.0}),
        ("timeout_s", {"timeout_s": math.inf}),
        ("timeout_s", {"timeout_s": math.nan}),
        ("model", {"model": ""}),
        ("model", {"model": "a\nb"}),
        ("provider", {"provider": "x" * 201}),
        ("labels", {"labels": ("a", "")}),
        ("labels", {"labels": ("x" * 201,)}),
        ("labels", {"labels": ("a\nb",)}),
        ("labels", {"labels": ("a,secret",)}),
        ("labels", {"labels": tuple(str(at) for at in range(65))}),
        ("files[0].content", {"files": _file("a.bin", "\x7fELF\0\0")}),
        ("tests[0].content", {"tests": _file("a.py", "\ud800")}),
        ("files[1].path", {"files": _file("a.py") + _file("./a.py")}),
        ("tests[0].path", {"files": _file("a.py"), "tests": _file("a.py")}),
        ("files[1].path", {"files": _file("a/b.py") + _file("a")}),
        ("files[1].path", {"files": _file("a") + _file("a/b/c.py")}),
    ],
)
def test_validate_request_when_a_field_is_invalid_then_error_names_it(
    field: str, request_fields: dict[str, Any]
):
    with pytest.raises(InvalidInput) as caught:
        _check(**request_fields)
    assert caught.value.code == "VALIDATION_ERROR"
    assert caught.value.details["field"] == field
    assert caught.value.details["reason"]


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "/",
        "./",
        "/etc/passwd",
        "~/x",
        "~root/x",
        "..",
        "../x",
        "a/../../x",
        "a/..",
        "a/",
        "a/.",
        "a\0b",
        "a\nb",
        "a\u202eb",
        "\ud800",
        "C:/x",
        "c:x",
        "a\\..\\b",
        "x" * 256,
        "ü" * 128,
        "a/" * 600 + "b",
    ],
)
def test_validate_request_when_a_path_is_unsafe_then_refused(path: str):
    with pytest.raises(InvalidInput) as caught:
        _check(files=_file(path))
    assert caught.value.details["field"] == "files[0].path"


@pytest.mark.parametrize(
    ("path", "plain"),
    [
        ("a.py", "a.py"),
        ("./src//a b.py", "src/a b.py"),
        ("src/./.hidden", "src/.hidden"),
        ("größe/..x", "größe/..x"),
        ("a..b/c", "a..b/c"),
    ],
)
def test_validate_request_when_a_path_is_harmless_then_normalized(path: str, plain: str):
    assert _check(files=_file(path)).files[0].path == plain


@pytest.mark.parametrize(
    ("details", "request_fields"),
    [
        (("prompt", 101, 100), {"prompt": "x" * 101}),
        (("prompt", 102, 100), {"prompt": "ü" * 51}),
        (("instructions", 101, 100), {"instructions": "x" * 101}),
        (("context", 108, 100), {"context": {"a": "x" * 100}}),
        (("files", 51, 50), {"files": _file("a", "x" * 30), "tests": _file("b", "x" * 21)}),
        (
            ("files", 10_000, 4),
            {"files": tuple(SourceFile(f"f{at}", "") for at in range(10_000))},
        ),
    ],
)
def test_validate_request_when_too_large_then_error_has_size_and_limit(
    details: tuple[str, int, int], request_fields: dict[str, Any]
):
    with pytest.raises(PayloadTooLarge) as caught:
        _check(**request_fields)
    assert caught.value.details == dict(zip(("field", "size", "limit"), details, strict=True))


def test_validate_request_when_everything_is_right_then_unchanged():
    request = TaskRequest(
        prompt="x" * 100,
        files=_file("src/a.py"),
        tests=_file("tests/test_a.py"),
        branches=8,
        temperature=2.0,
        seed=2**32 - 1,
        timeout_s=1e9,
        client_task_id="A-z_0.9:x",
        model="qwen 2.5/coder:7b",
        labels=("x" * 200, *(f"größe {at}" for at in range(63))),
    )
    assert validate_request(request, LIMITS, max_branches=8) == request
