"""What every program inside a sandbox finds in its environment."""

_TMP = "/tmp"  # noqa: S108 - the sandbox's own
TOOLCHAINS = "/opt/toolchains"

ENVIRONMENT = {
    # Go's programs don't stand among the system's, where they are usually put.
    "PATH": "/opt/python/bin:/usr/local/bin:/usr/bin:/bin:/usr/local/go/bin:/usr/lib/go/bin",
    "HOME": _TMP,
    "LANG": "C.UTF-8",
    "TMPDIR": _TMP,
}


def environment(toolchains: int) -> dict[str, str]:
    """What every program gets, where that many toolchains of the administrator's are bound."""
    added = "".join(f":{TOOLCHAINS}/{number}/bin" for number in range(toolchains))
    return ENVIRONMENT | {"PATH": ENVIRONMENT["PATH"] + added}
