"""Validates paths of a caller's files: relative, without `..`, distinct."""

import re

from appliance.errors import InvalidInput

_MAX_PATH_BYTES = 1024
_MAX_PART_BYTES = 255
_DRIVE = re.compile(r"[A-Za-z]:")


class PathSet:
    """The paths of one request: no duplicates, and no file below another file."""

    def __init__(self) -> None:
        self._files: set[str] = set()
        self._folders: set[str] = set()

    def add(self, field: str, path: str) -> str:
        """The normalized path (no `./`, no `//`). Raises InvalidInput naming `field`."""
        parts = _split(field, path)
        plain = "/".join(parts)
        folders = {"/".join(parts[:depth]) for depth in range(1, len(parts))}
        if plain in self._files:
            raise InvalidInput.at(field, f"duplicate path {plain!r}")
        if plain in self._folders or folders & self._files:
            raise InvalidInput.at(field, f"{plain!r} is both a file and a folder")
        self._files.add(plain)
        self._folders |= folders
        return plain


def _split(field: str, path: str) -> list[str]:
    if not path or path.endswith("/"):
        raise InvalidInput.at(field, "must name a file")
    if not path.isprintable():
        raise InvalidInput.at(field, "must not contain unprintable characters")
    if "\\" in path:
        raise InvalidInput.at(field, "must separate folders by /, not by a backslash")
    if path.startswith(("/", "~")) or _DRIVE.match(path):
        raise InvalidInput.at(field, "must be relative to the project, not absolute")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise InvalidInput.at(field, "must not contain ..")
    if not parts or path.endswith("/."):
        raise InvalidInput.at(field, "must name a file")
    if len(path.encode()) > _MAX_PATH_BYTES or any(_too_long(part) for part in parts):
        raise InvalidInput.at(
            field, f"is too long: at most {_MAX_PATH_BYTES} bytes, {_MAX_PART_BYTES} for each name"
        )
    return parts


def _too_long(part: str) -> bool:
    return len(part.encode()) > _MAX_PART_BYTES
