"""What every program inside a sandbox finds in its environment."""

_TMP = "/tmp"  # noqa: S108 - the sandbox's own
TOOLCHAINS = "/opt/toolchains"

_FIRST = "/opt/python/bin"
# Go's programs don't stand among the system's, where they are usually put.
_SYSTEM = "/usr/local/bin:/usr/bin:/bin:/usr/local/go/bin:/usr/lib/go/bin"

ENVIRONMENT = {
    "PATH": f"{_FIRST}:{_SYSTEM}",
    "HOME": _TMP,
    "LANG": "C.UTF-8",
    "TMPDIR": _TMP,
}


def environment(toolchains: int) -> dict[str, str]:
    """What every program gets, where that many toolchains of the administrator's are bound.

    They come before the system's own.
    """
    added = [f"{TOOLCHAINS}/{number}/bin" for number in range(toolchains)]
    return ENVIRONMENT | {"PATH": ":".join([_FIRST, *added, _SYSTEM])}
