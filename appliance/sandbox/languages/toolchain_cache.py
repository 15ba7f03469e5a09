"""Has ready-made what a language would else make anew in each run (see domain.prepared)."""

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
from appliance.sandbox.languages.recipes import Recipe

_ARCHIVE = "prepared.tar.gz"
# Go's library takes a minute and a half of a processor, and is 180 MiB, 50 when packed.
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
_MOST_BYTES = 1024 * MIB
_MADE = "/tmp/prepared"  # noqa: S108 - the sandbox's own
_VERSION = ".version"
_PACK = f"""if ! [ -d {toolchain_cache.INSIDE} ]; then
    echo "this sandbox shows nothing that is ready-made" >&2
    exit 1
fi
mkdir {_MADE} && cd {_MADE} || exit
{{command}} || exit
python -c "import tarfile
with tarfile.open('/workspace/{_ARCHIVE}', 'w:gz', compresslevel=1) as packed:
    packed.add('.')"
"""

_BROKEN = (tarfile.TarError, EOFError, zlib.error)

log = structlog.get_logger()

Run = Callable[[RunRequest], Awaitable[RunResult]]


class Preparation:
    """`folder` holds what was made, by language."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def has(self, recipe: Recipe, version: str) -> bool:
        """Whether it was made for that version of the language."""
        try:
            return (self._folder / recipe.name / _VERSION).read_text() == version
        except OSError:
            return False

    async def make(self, recipe: Recipe, version: str, run: Run) -> bool:
        """Whether it is there now. What can't be had is told in the log."""
        try:
            archive = await _packed(recipe, run)
            await asyncio.to_thread(self._put, recipe.name, version, archive)
        except (ApplianceError, OSError, *_BROKEN) as error:
            log.warning("sandbox.not_prepared", language=recipe.name, reason=str(error))
            return False
        log.info("sandbox.prepared", language=recipe.name, packed_bytes=len(archive))
        return True

    def _put(self, name: str, version: str, archive: bytes) -> None:
        fresh, place = self._folder / f".{name}", self._folder / name
        for path in (fresh, place):
            shutil.rmtree(path, ignore_errors=True)
        try:
            _unpack(archive, fresh)
            (fresh / _VERSION).write_text(version)
            _open_to_all(fresh)
            fresh.rename(place)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise


async def _packed(recipe: Recipe, run: Run) -> bytes:
    script = _PACK.format(command=recipe.prepare)
    result = await run(RunRequest(("sh", "-c", script), artifacts=(_ARCHIVE,), limits=_LIMITS))
    if not result.ok or len(result.artifacts) != 1:
        said = result.stderr[-300:].decode(errors="replace")
        raise ApplianceError(f"it ended with {result.reason}: {said}")
    return result.artifacts[0].content


def _unpack(archive: bytes, target: Path) -> None:
    """Regular files and folders with plain names, nothing else: a run has made it."""
    room = _MOST_BYTES
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as packed:
        for member in packed:
            path = PurePosixPath(member.name)
            room -= member.size
            if path.is_absolute() or ".." in path.parts or room < 0:
                raise tarfile.TarError(f"a member that can't be taken: {member.name[:200]!r}")
            content = packed.extractfile(member) if member.isreg() else None
            if content is not None:
                place = target / path
                place.parent.mkdir(parents=True, exist_ok=True)
                with content, place.open("xb") as file:
                    shutil.copyfileobj(content, file)


def _open_to_all(tree: Path) -> None:
    """A run's user is a stranger here."""
    tree.chmod(0o755)
    for path in tree.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
