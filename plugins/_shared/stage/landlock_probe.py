"""Proves that Landlock confines programs: one tries what nothing else would refuse."""

import msgspec

# Any user may create the character device 0:0 (an overlayfs whiteout), and may signal the init
# process, which has the same user id.
PROGRAM = """
import json, os, stat
def refused(action):
    try:
        action()
    except PermissionError:
        return True
    except OSError:
        return False
    return False
print(json.dumps({
    "files": refused(lambda: os.mknod("white-out", stat.S_IFCHR | 0o600, os.makedev(0, 0))),
    "signals": refused(lambda: os.kill(1, 0)),
}))
"""

_LACK = "no Landlock: this kernel lacks version 2 or later, or it is turned off"


class ProbeResult(msgspec.Struct, frozen=True):
    """What PROGRAM prints: which attempts the kernel refused."""

    files: bool
    signals: bool


def proven_layers(printed: bytes) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Layers of isolation that the output proves, and what is missing. Raises DecodeError."""
    result = msgspec.json.decode(printed, type=ProbeResult)
    if not result.files:
        return (), (_LACK,)
    return ("landlock", "landlock_signals") if result.signals else ("landlock",), ()
