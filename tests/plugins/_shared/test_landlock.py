"""Landlock as a library: which version is used, and what happens where the kernel refuses."""

import errno
import os
from typing import Any

import pytest

from plugins._shared import landlock
from plugins._shared.stage import bytecode, init


def _kernel(version: int, calls: list[int]) -> Any:
    """A syscall() that knows this version of Landlock and refuses every rule."""

    def syscall(number: int, *arguments: int | bytes | None) -> int:
        calls.append(number)
        if arguments[0] is None and version > 0:
            return version
        raise OSError(errno.EINVAL, "Landlock: refused")

    return syscall


@pytest.mark.parametrize("version", [0, 1])
def test_restrict_when_kernel_is_older_than_required_then_restricts_nothing(
    monkeypatch: pytest.MonkeyPatch, version: int
):
    calls: list[int] = []
    monkeypatch.setattr(landlock, "_syscall", _kernel(version, calls))

    assert landlock.restrict({"/": landlock.READ}, oldest_version=2) == 0
    assert calls == [444]


def test_restrict_when_kernel_refuses_a_rule_then_raises(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(landlock, "_syscall", _kernel(7, []))

    with pytest.raises(OSError, match="Landlock"):
        landlock.restrict({"/": landlock.READ})


@pytest.mark.skipif(landlock.version() < 2, reason="needs landlock: version 2")
def test_bytecode_when_run_without_the_product_then_restricts_the_child():
    child = os.fork()
    if child == 0:
        code = bytecode.module_code("plugins._shared.landlock")
        module = init.load_module(code)
        module["restrict"]({"/proc": module["READ"]}, oldest_version=2)
        try:
            os.scandir("/").close()
        except PermissionError:
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
