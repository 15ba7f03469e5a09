"""The home directory, which a user without an entry in the password database may lack."""

from collections.abc import Mapping
from pathlib import Path

from appliance.errors import ConfigError


def find_home(environ: Mapping[str, str]) -> Path | None:
    """HOME, else the home directory in the password database; None if there is neither."""
    try:
        return Path(environ.get("HOME") or Path.home())
    except RuntimeError:
        return None


def expand_home(path: str | Path) -> Path:
    """The path with a leading ~ or ~USER replaced. Raises ConfigError if that has no directory."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"{path}: the home directory is unknown; set HOME, or write the path without ~"
        ) from None
