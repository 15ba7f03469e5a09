"""The toolchain cache: archives built in the sandbox are not trusted."""

import io
import tarfile
from pathlib import Path

import pytest

from appliance.domain.execution import (
    EndReason,
    Isolation,
    IsolationLevel,
    RunRequest,
    RunResult,
    RunUsage,
    SandboxFile,
)
from appliance.errors import SandboxUnavailable
from appliance.sandbox.languages import recipes, toolchain_cache
from appliance.sandbox.languages.toolchain_cache import ToolchainCache

(GO,) = (recipe for recipe in recipes.RECIPES if recipe.name == "go")


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*")]


def packed(*members: tuple[str, bytes | str]) -> bytes:
    """An archive with files; a text is where a symbolic link of that name leads."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
            else:
                info.size = len(content)
                info.mode = 0o4777
                archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def giving(*contents: bytes, exit_code: int = 0):
    async def run(_: RunRequest) -> RunResult:
        return RunResult(
            reason=EndReason.EXITED,
            exit_code=exit_code,
            signal=None,
            stdout=b"",
            stderr=b"no room",
            output_truncated=False,
            usage=RunUsage(0, 0, 0),
            isolation=Isolation("test", IsolationLevel.NAMESPACES, ()),
            artifacts=tuple(SandboxFile("prepared.tar.gz", content) for content in contents),
        )

    return run


async def test_preparation_when_made_again_then_takes_the_place_of_the_old(tmp_path: Path) -> None:
    preparation = ToolchainCache(tmp_path / "all")
    assert not preparation.has(GO, "1.2")

    assert await preparation.build(GO, "1.2", giving(packed(("old", b"1"))))
    assert await preparation.build(GO, "1.2", giving(packed(("./ff/new", b"2"), ("link", "/etc"))))

    place = tmp_path / "all" / "go"
    assert preparation.has(GO, "1.2")
    assert not preparation.has(GO, "1.3")
    found = sorted(path.relative_to(place).as_posix() for path in place.rglob("*"))
    assert found == [".version", "ff", "ff/new"]
    assert (place / "ff" / "new").stat().st_mode & 0o7777 == 0o644


@pytest.mark.parametrize(
    "archive",
    [
        packed(("../out", b"x")),
        packed(("/out", b"x")),
        packed(("a", b"x"), ("a", b"y")),
        packed(("a", ".."), ("a/out", b"x"), ("a/out", b"x")),
        packed(("a", b"x" * 100))[:-20],
        b"no archive",
        b"",
    ],
    ids=["above", "from the root", "twice", "through a link", "cut off", "another", "empty"],
)
async def test_preparation_when_the_archive_is_bad_then_nothing_is_taken(
    archive: bytes, tmp_path: Path
) -> None:
    folder = tmp_path / "all"

    assert not await ToolchainCache(folder).build(GO, "1.2", giving(archive))

    assert names_in(tmp_path) in ([], ["all"])


async def test_preparation_when_too_large_unpacked_then_nothing_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolchain_cache, "_MAX_BYTES", 10)

    built = await ToolchainCache(tmp_path).build(
        GO, "1.2", giving(packed(("a", b"x" * 6), ("b", b"y" * 6)))
    )

    assert not built
    assert not names_in(tmp_path)


async def test_preparation_when_the_run_fails_then_nothing_is_taken(tmp_path: Path) -> None:
    async def refused(_: RunRequest) -> RunResult:
        raise SandboxUnavailable("shut down")

    preparation = ToolchainCache(tmp_path)

    assert not await preparation.build(GO, "1.2", giving(packed(("a", b"x")), exit_code=1))
    assert not await preparation.build(GO, "1.2", giving())
    assert not await preparation.build(GO, "1.2", refused)
    assert not names_in(tmp_path)
