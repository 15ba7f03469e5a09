"""The agent of a guest as a program leaves it that has taken it over.

It serves as the real one does until the job holds `attack:NAME!`; from then on it says what
ATTACKS has under that name, and stays.
"""

import functools
import importlib.util
import inspect
import marshal

from plugins._shared.guest import agent
from plugins._shared.guest.agent_bundle import agent_files

_TAKEN_OVER = """
import itertools
import time

def _said(kind, payload=b"", length=None):
    return HEADER.pack(kind, len(payload) if length is None else length) + payload

def _report(kind, payload=b""):
    return _said(b"R", _said(kind, payload))

_BEGUN = _report(b"S")
_ENDED = _report(b"X", struct.pack(">BIQQ", 0, 0, 1000, 10))
_LARGEST = (1 << 32) - 1
_FULL = bytes(FRAME_BYTES)

def _artifacts():
    yield _BEGUN + _ENDED
    for number in itertools.count():
        name = b"%d" % number
        yield _report(b"A", struct.pack(">BH", 0, len(name)) + name + bytes(1000))

def _endless(first, again):
    yield first
    yield from itertools.repeat(again)

ATTACKS = {
    "largest frame": lambda: _endless(_BEGUN + HEADER.pack(b"O", _LARGEST), _FULL),
    "unknown kind": lambda: _endless(_BEGUN, _said(b"Q", b"x")),
    "words after the end": lambda: _endless(_BEGUN + _ENDED + _said(b"Z"), _said(b"O", b"x")),
    "largest report": lambda: _endless(
        _BEGUN + _ENDED + _said(b"R", HEADER.pack(b"A", _LARGEST)), _said(b"R", _FULL)),
    "endless starts": lambda: _endless(_BEGUN, _BEGUN * 1000),
    "endless refusals": lambda: _endless(_BEGUN + _ENDED, _report(b"R", b"x" * 1000) * 10),
    "endless artifacts": _artifacts,
    "endless output": lambda: _endless(_BEGUN, _said(b"O", _FULL)),
    "output in single bytes": lambda: _endless(_BEGUN, _said(b"E", b"x") * 10_000),
    "no end": lambda: [_BEGUN + _ENDED],
    "end without a start": lambda: [_ENDED],
    "no word": lambda: [],
    "gone": lambda: os._exit(0),
}

def _attack(name):
    for words in ATTACKS[name]():
        rest = memoryview(words)
        while rest:
            select.select([], [_sink], [])
            try:
                rest = rest[os.write(_sink, rest):]
            except BlockingIOError:
                pass
    time.sleep(600)

class _TakenOver(_Inwards):
    def _write(self):
        _, marked, name = bytes(self._bytes).partition(b"attack:")
        if marked:
            _attack(name.partition(b"!")[0].decode())
        super()._write()

_Inwards = _TakenOver
_serve = serve

def serve(source, sink, enter, files=0):
    global _sink
    _sink = sink
    _serve(source, sink, enter, files)
"""
_MAIN = '\n\nif __name__ == "__main__":'


@functools.cache  # what is compiled twice need not be the same bytes
def hostile_files() -> dict[str, bytes]:
    """As plugins._shared.guest.agent_bundle.agent_files; takes its place."""
    before, main, rest = inspect.getsource(agent).partition(_MAIN)
    code = compile(before + _TAKEN_OVER + main + rest, "agent.py", "exec")
    unchecked = (1).to_bytes(4, "little") + bytes(8)
    taken_over = importlib.util.MAGIC_NUMBER + unchecked + marshal.dumps(code)
    return agent_files() | {"agent.pyc": taken_over}
