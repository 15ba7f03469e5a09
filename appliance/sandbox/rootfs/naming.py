"""What root file systems may be called."""

import re
from pathlib import Path

from appliance.domain import rootfs
from appliance.errors import InvalidInput

_ENDINGS = re.compile(r"(\.(tar|tgz|txz|tbz2?|gz|xz|bz2|zst|squashfs|sqfs|sfs|img))+$")


def check_name(name: str) -> None:
    """Raises InvalidInput."""
    if not rootfs.NAME.fullmatch(name):
        raise InvalidInput(
            f"{name[:80]!r} is no name for a root file system: use up to 64 of a-z, 0-9, '.', "
            "'_' and '-', a letter or digit first"
        )


def default_name(source: Path) -> str:
    """A name from the file's own."""
    plain = _ENDINGS.sub("", source.absolute().name.lower())
    name = re.sub(r"[^a-z0-9._-]+", "-", plain).strip("-._")[:64]
    return name or "root"
