"""Orders the versions of packages, as PEP 440 says."""

import re
from typing import Any

_MAX_LENGTH = 128
_VERSION = re.compile(
    r"""v?(?:(?P<epoch>\d+)!)?(?P<release>\d+(?:\.\d+)*)
    (?:[-_.]?(?P<pre>alpha|beta|preview|pre|rc|a|b|c)[-_.]?(?P<pre_n>\d*))?
    (?:[-_.]?(?:post|rev|r)[-_.]?(?P<post>\d+))?
    (?:[-_.]?dev[-_.]?(?P<dev>\d*))?
    (?:\+[a-z0-9._-]+)?""",
    re.VERBOSE | re.IGNORECASE,
)
_PRE_RANK = {"a": 0, "alpha": 0, "b": 1, "beta": 1, "c": 2, "rc": 2, "pre": 2, "preview": 2}
_NO_PRE = 3
_NEVER = 1 << 62


def version_key(version: str) -> tuple[Any, ...] | None:
    """Orders versions as PEP 440 does (without local parts); None for what is no version."""
    found = _VERSION.fullmatch(version[: _MAX_LENGTH + 1])
    if found is None or len(version) > _MAX_LENGTH:
        return None
    release = [int(part) for part in found["release"].split(".")]
    while release and release[-1] == 0:
        release.pop()
    pre = (_PRE_RANK[found["pre"].lower()], int(found["pre_n"] or 0)) if found["pre"] else None
    dev = None if found["dev"] is None else int(found["dev"] or 0)
    if pre is None:
        # A mere development release stands before the first alpha.
        pre = (-1, 0) if dev is not None and found["post"] is None else (_NO_PRE, 0)
    post = -1 if found["post"] is None else int(found["post"])
    return int(found["epoch"] or 0), tuple(release), pre, post, _NEVER if dev is None else dev


def is_pre_release(version: str) -> bool:
    found = _VERSION.fullmatch(version)
    return found is not None and (found["pre"] is not None or found["dev"] is not None)
