"""Whether a program is really under Landlock: it tries what nothing else would refuse it."""

import msgspec

# A character device 0:0 is a white-out, which everybody may make; and the stage has the same
# user id, so it may be signalled.
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

_LACK = "no Landlock: this kernel has none of version 2 or later, or it is turned off"


class Refused(msgspec.Struct, frozen=True):
    """What PROGRAM prints."""

    files: bool
    signals: bool


def layers(printed: bytes) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The layers that this proves, and what is lacking. Raises msgspec.DecodeError."""
    refused = msgspec.json.decode(printed, type=Refused)
    if not refused.files:
        return (), (_LACK,)
    found = {
        "landlock": refused.files,
        "landlock_signals": refused.signals,
    }
    return tuple(name for name, holds in found.items() if holds), ()
