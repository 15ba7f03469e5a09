"""Fetches source packages exactly as pinned in uv.lock."""

import hashlib
import sys
import tomllib
import urllib.request
from pathlib import Path

_LOCK = Path(__file__).resolve().parent.parent / "uv.lock"
_TIMEOUT_S = 60


def fetch_locked_source(name: str, folder: Path) -> Path:
    """The locked sdist of a package, fetched once and checked against its hash."""
    packages = tomllib.loads(_LOCK.read_text())["package"]
    source = next(package["sdist"] for package in packages if package["name"] == name)
    sha256 = source["hash"].removeprefix("sha256:")
    target = folder / source["url"].rsplit("/", 1)[1]
    if not target.exists() or _sha256(target) != sha256:
        folder.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(source["url"], timeout=_TIMEOUT_S) as answer:
            target.write_bytes(answer.read())
    if _sha256(target) != sha256:
        sys.exit(f"build: {target.name} does not match uv.lock; remove it and retry")
    return target


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
