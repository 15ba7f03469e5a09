"""llama.cpp's log: only errors, on standard error and the last ones in memory."""

import ctypes
import sys
from collections import deque
from typing import Any

_LEVEL_ERROR = 4
_LEVEL_CONTINUED = 5
_MAX_LINES = 20
# The callback that the library calls; collected while it does, it would crash the process.
_installed: list[Any] = []


class ErrorLog:
    """The last errors that llama.cpp logged."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=_MAX_LINES)
        self._level = 0

    @property
    def text(self) -> str:
        return "".join(self._lines)

    def install(self, lib: Any) -> None:
        """Receive the library's log from now on, in place of a log that was installed before."""
        callback = lib.llama_log_callback(self._log)
        lib.llama_log_set(callback, ctypes.c_void_p(0))
        _installed[:] = [callback]

    def _log(self, level: int, text: bytes, _user_data: Any) -> None:
        self._level = self._level if level == _LEVEL_CONTINUED else level
        if self._level == _LEVEL_ERROR:
            line = text.decode("utf-8", "replace")
            self._lines.append(line)
            print(line, end="", file=sys.stderr, flush=True)
