"""What the stage inside the sandbox says about its run.

The frames (see stage.py) may come from a program that took the stage over: they are
bytes of a stranger, bounded in number and size, and each name is checked anew.
"""

import struct

from appliance.domain.execution import Limits, SandboxFile
from plugins._shared.stage import collect, init, paths

_NAMES_ROOM = 512 * 1024
_MAX_REFUSED = 256
# A stage says a handful, and one for each file that it looks at.
_MAX_FRAMES = 25_000
_MAX_REASON = 1200
_MAX_FIGURE = 1 << 40  # µs of processor time, or KiB of memory


class Report:
    """Fed with bytes as they come; `broken` once they make no sense or are too many."""

    def __init__(self, limits: Limits) -> None:
        self.waiting = False
        self.started = False
        self.ended: tuple[int, int, int, int] | None = None
        self.failure = ""
        self.artifacts: list[SandboxFile] = []
        self.refused: list[str] = []
        self.broken = False
        self._limits = limits
        self._buffer = bytearray()
        self._frames = 0
        self._room = limits.artifact_bytes + limits.artifact_files * 1100 + _NAMES_ROOM

    def feed(self, data: bytes) -> None:
        self._room -= len(data)
        self.broken |= self._room < 0
        if self.broken:
            self._buffer.clear()
            return
        self._buffer += data
        while not self.broken and (frame := self._next()):
            self._frames += 1
            self.broken = self._frames > _MAX_FRAMES
            try:
                self._take(*frame)
            except (ValueError, struct.error):
                self.broken = True

    def _next(self) -> tuple[bytes, bytes] | None:
        if len(self._buffer) < init.HEADER.size:
            return None
        kind, length = init.HEADER.unpack_from(self._buffer)
        end = init.HEADER.size + length
        if len(self._buffer) < end:
            return None
        payload = bytes(self._buffer[init.HEADER.size : end])
        del self._buffer[:end]
        return kind, payload

    def _take(self, kind: bytes, payload: bytes) -> None:
        match kind:
            case b"W":
                self.waiting = True
            case b"S":
                self.started = True
            case b"X" if self.ended is None:
                self._end(*init.ENDED.unpack(payload))
            case b"F":
                self.failure = payload[:_MAX_REASON].decode(errors="replace")
            case b"A":
                self._artifact(payload)
            case b"R":
                self._refuse(payload.decode(errors="replace"))
            case _:
                raise ValueError(kind)

    def _end(self, kind: int, number: int, cpu_us: int, rss_kib: int) -> None:
        if max(cpu_us, rss_kib) > _MAX_FIGURE:
            raise ValueError(max(cpu_us, rss_kib))
        self.ended = kind, number, cpu_us, rss_kib

    def _artifact(self, payload: bytes) -> None:
        executable, length = collect.ARTIFACT.unpack_from(payload)
        start = collect.ARTIFACT.size
        name = payload[start : start + length].decode("utf-8", errors="surrogateescape")
        content = payload[start + length :]
        if reason := paths.problem(name):
            self._refuse(f"{name!r} {reason}")
        elif self._surplus(name):
            raise ValueError(name)
        else:
            self.artifacts.append(SandboxFile(name, content, bool(executable)))

    def _surplus(self, name: str) -> bool:
        known = any(artifact.path == name for artifact in self.artifacts)
        return known or len(self.artifacts) >= self._limits.artifact_files

    def _refuse(self, reason: str) -> None:
        """Names are the program's, and may hold what a terminal would obey."""
        if len(self.refused) < _MAX_REFUSED:
            shown = (char if char.isprintable() else "?" for char in reason[:_MAX_REASON])
            self.refused.append("".join(shown))
