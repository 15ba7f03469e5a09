"""Runs the command line inside the test's own process."""

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager

import pytest
import structlog
from msgspec import Struct

from appliance.cli import run


class CommandResult(Struct, frozen=True):
    """A command's exit status and what it wrote."""

    status: int
    out: str
    err: str


Command = Callable[..., CommandResult]


@contextmanager
def command_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Generator[Command]:
    """A function that runs `monkey-coder` with the words given, in a clean environment."""
    for name in ("HOST", "PORT", "DATABASE_URL", "JWT_SECRET_KEY", "CORS_ORIGINS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", "/nonexistent/xdg")
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level

    def call(*words: str) -> CommandResult:
        with pytest.raises(SystemExit) as ended:
            run(list(words))
        output = capsys.readouterr()
        return CommandResult(int(ended.value.code or 0), output.out, output.err)

    try:
        yield call
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()
