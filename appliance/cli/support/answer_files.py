"""Writes the files of an answer into a folder, never outside it."""

import os
import re
import secrets
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from appliance.errors import InvalidInput, SetupError

_MAX_NAME = 255
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DRIVE = re.compile(r"[A-Za-z]:")


def check_names(files: Mapping[str, str | bytes]) -> None:
    """Raise InvalidInput for a name that leaves the folder or is not a valid file name."""
    for name in files:
        parts = name.split("/")
        if (
            any(part in ("", ".", "..") or len(part) > _MAX_NAME for part in parts)
            or "\\" in name
            or _CONTROL.search(name)
            or _DRIVE.match(name)
        ):
            raise InvalidInput(f"the answer holds a file named {name!r}; nothing was written")


def existing_files(folder: Path, files: Mapping[str, str | bytes]) -> list[str]:
    """Names that already exist in the folder."""
    return [name for name in files if os.path.lexists(folder / name)]


def write_files(folder: Path, files: Mapping[str, str | bytes]) -> list[Path]:
    """Write the files, replacing existing ones. Symbolic links below the folder are not followed.

    Raises SetupError where the disk refuses.
    """
    check_names(files)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            _write_file(folder, name.split("/"), data)
    except OSError as error:
        raise SetupError(f"cannot write into {folder}: {error.strerror}") from None
    return [folder / name for name in files]


def _write_file(folder: Path, parts: list[str], content: bytes) -> None:
    with ExitStack() as stack:
        place = _open_folder(stack, str(folder), None)
        for part in parts[:-1]:
            with suppress(FileExistsError):
                os.mkdir(part, dir_fd=place)
            place = _open_folder(stack, part, place)
        _replace(place, parts[-1], content)


def _open_folder(stack: ExitStack, name: str, parent: int | None) -> int:
    # The folder itself may be a symbolic link of the user's; entries below it may not.
    flags = os.O_RDONLY | os.O_DIRECTORY | (0 if parent is None else os.O_NOFOLLOW)
    descriptor = os.open(name, flags, dir_fd=parent)
    stack.callback(os.close, descriptor)
    return descriptor


def _replace(place: int, name: str, content: bytes) -> None:
    """Write a temporary file, then rename it: the target is complete or unchanged."""
    temporary = f".{secrets.token_hex(8)}.part"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    descriptor = os.open(temporary, flags, 0o666, dir_fd=place)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.replace(temporary, name, src_dir_fd=place, dst_dir_fd=place)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=place)
        raise
