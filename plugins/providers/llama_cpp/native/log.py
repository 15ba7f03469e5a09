"""llama.cpp's log: quiet, but its errors are kept and told on standard error."""

import ctypes
import sys
from collections import deque
from typing import Any

_ERROR = 4
_CONTINUED = 5
_KEPT = 20


class ErrorLog:
    """The last errors that llama.cpp logged. Must live as long as the library is used."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=_KEPT)
        self._level = 0
        self._callback: Any = None

    @property
    def text(self) -> str:
        return "".join(self._lines)

    def install(self, lib: Any) -> None:
        """Take over the library's log."""
        self._callback = lib.llama_log_callback(self._log)
        lib.llama_log_set(self._callback, ctypes.c_void_p(0))

    def _log(self, level: int, text: bytes, _user_data: Any) -> None:
        self._level = self._level if level == _CONTINUED else level
        if self._level == _ERROR:
            line = text.decode("utf-8", "replace")
            self._lines.append(line)
            print(line, end="", file=sys.stderr, flush=True)
