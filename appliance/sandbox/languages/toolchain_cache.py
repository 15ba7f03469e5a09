"""Builds and stores cached toolchain artifacts (see domain.toolchain_cache)."""

import asyncio
import io
import shutil
import tarfile
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path, PurePosixPath

import structlog

from appliance.domain import toolchain_cache
from appliance.domain.execution import MIB, Limits, RunRequest, RunResult
from appliance.errors import ApplianceError
from appliance.sandbox.languages.recipes import LanguageRecipe

_ARCHIVE = "prepared.tar.gz"
# Go's standard library takes 90 s of one processor and is 180 MiB large, 50 MiB compressed.
_LIMITS = Limits(
    wall_s=900.0,
    cpu_s=900.0,
    memory_bytes=2048 * MIB,
    processes=256,
    workspace_bytes=512 * MIB,
    tmp_bytes=512 * MIB,
    workspace_files=32768,
    artifact_bytes=256 * MIB,
    artifact_files=1,
)
_MAX_BYTES = 1024 * MIB
_BUILD_FOLDER = "/tmp/prepared"  # noqa: S108 - the sandbox's own
_VERSION = ".version"
_BUILD_SCRIPT = f"""if ! [ -d {toolchain_cache.MOUNT_POINT} ]; then
    echo "this sandbox has no toolchain cache" >&2
    exit 1
fi
mkdir {_BUILD_FOLDER} && cd {_BUILD_FOLDER} || exit
{{command}} || exit
python -c "import tarfile
with tarfile.open('/workspace/{_ARCHIVE}', 'w:gz', compresslevel=1) as packed:
    packed.add('.')"
"""

_ARCHIVE_ERRORS = (tarfile.TarError, EOFError, zlib.error)

log = structlog.get_logger()

Run = Callable[[RunRequest], Awaitable[RunResult]]


class ToolchainCache:
    """`folder` holds one folder of artifacts per language."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def has(self, recipe: LanguageRecipe, version: str) -> bool:
        """Whether the artifacts are those of that version of the language."""
        try:
            return (self._folder / recipe.name / _VERSION).read_text() == version
        except OSError:
            return False

    async def build(self, recipe: LanguageRecipe, version: str, run: Run) -> bool:
        """Build and store the artifacts. False on failure, whose reason is logged."""
        try:
            archive = await _build_archive(recipe, run)
            await asyncio.to_thread(self._store, recipe.name, version, archive)
        except (ApplianceError, OSError, *_ARCHIVE_ERRORS) as error:
            log.warning("sandbox.not_prepared", language=recipe.name, reason=str(error))
            return False
        log.info("sandbox.prepared", language=recipe.name, packed_bytes=len(archive))
        return True

    def _store(self, name: str, version: str, archive: bytes) -> None:
        fresh, final = self._folder / f".{name}", self._folder / name
        for path in (fresh, final):
            shutil.rmtree(path, ignore_errors=True)
        try:
            _unpack(archive, fresh)
            (fresh / _VERSION).write_text(version)
            _make_readable(fresh)
            fresh.rename(final)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise


async def _build_archive(recipe: LanguageRecipe, run: Run) -> bytes:
    script = _BUILD_SCRIPT.format(command=recipe.cache_command)
    result = await run(RunRequest(("sh", "-c", script), artifacts=(_ARCHIVE,), limits=_LIMITS))
    if not result.ok or len(result.artifacts) != 1:
        output = result.stderr[-300:].decode(errors="replace")
        raise ApplianceError(f"the build ended with {result.reason}: {output}")
    return result.artifacts[0].content


def _unpack(archive: bytes, target: Path) -> None:
    """Extract regular files with plain names only: the archive comes from the sandbox."""
    free_bytes = _MAX_BYTES
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as packed:
        for member in packed:
            path = PurePosixPath(member.name)
            free_bytes -= member.size
            if path.is_absolute() or ".." in path.parts or free_bytes < 0:
                raise tarfile.TarError(f"refused member {member.name[:200]!r}")
            content = packed.extractfile(member) if member.isreg() else None
            if content is not None:
                destination = target / path
                destination.parent.mkdir(parents=True, exist_ok=True)
                with content, destination.open("xb") as file:
                    shutil.copyfileobj(content, file)


def _make_readable(tree: Path) -> None:
    """Let all users read the tree: runs have another user id."""
    tree.chmod(0o755)
    for path in tree.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
