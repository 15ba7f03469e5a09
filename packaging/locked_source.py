"""Source packages exactly as uv.lock names them."""

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
    wanted = source["hash"].removeprefix("sha256:")
    target = folder / source["url"].rsplit("/", 1)[1]
    if not target.exists() or _sha256(target) != wanted:
        folder.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(source["url"], timeout=_TIMEOUT_S) as answer:
            target.write_bytes(answer.read())
    if _sha256(target) != wanted:
        sys.exit(f"build: {target.name} is not what uv.lock names; remove it and try again")
    return target


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
