"""Memory that an engine's process occupies, read from /proc."""

from pathlib import Path

from msgspec import Struct

_PROC = Path("/proc")


class ResidentMemory(Struct, frozen=True):
    """Bytes of a process in memory: its own, and pages of files that can be read again."""

    own: int = 0
    files: int = 0

    @property
    def total(self) -> int:
        return self.own + self.files


def read_resident_memory(pid: int) -> ResidentMemory:
    """What a process has in memory now; nothing if it has ended."""
    try:
        status = (_PROC / str(pid) / "status").read_text()
    except OSError:
        return ResidentMemory()
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    own = _to_bytes(fields.get("RssAnon", "")) + _to_bytes(fields.get("RssShmem", ""))
    return ResidentMemory(own, _to_bytes(fields.get("RssFile", "")))


def _to_bytes(text: str) -> int:
    """The bytes of a value such as "1024 kB", 0 for ""."""
    return int(text.split(maxsplit=1)[0]) * 1024 if text else 0
