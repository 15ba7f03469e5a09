"""A guest agent that a program has taken over.

It behaves as the real one until the job contains `attack:NAME!`; from then on it sends what
ATTACKS has under that name, and does not end.
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

def _frame(kind, payload=b"", length=None):
    return FRAME_HEADER.pack(kind, len(payload) if length is None else length) + payload

def _report(kind, payload=b""):
    return _frame(b"R", _frame(kind, payload))

_STARTED = _report(b"S")
_EXITED = _report(b"X", struct.pack(">BIQQ", 0, 0, 1000, 10))
_LARGEST = (1 << 32) - 1
_FULL = bytes(FRAME_BYTES)

def _artifacts():
    yield _STARTED + _EXITED
    for number in itertools.count():
        name = b"%d" % number
        yield _report(b"A", struct.pack(">BH", 0, len(name)) + name + bytes(1000))

def _endless(first, again):
    yield first
    yield from itertools.repeat(again)

ATTACKS = {
    "largest frame": lambda: _endless(_STARTED + FRAME_HEADER.pack(b"O", _LARGEST), _FULL),
    "unknown kind": lambda: _endless(_STARTED, _frame(b"Q", b"x")),
    "frame after the end": lambda: _endless(_STARTED + _EXITED + _frame(b"Z"), _frame(b"O", b"x")),
    "largest report": lambda: _endless(
        _STARTED + _EXITED + _frame(b"R", FRAME_HEADER.pack(b"A", _LARGEST)), _frame(b"R", _FULL)),
    "endless starts": lambda: _endless(_STARTED, _STARTED * 1000),
    "endless refusals": lambda: _endless(_STARTED + _EXITED, _report(b"R", b"x" * 1000) * 10),
    "endless artifacts": _artifacts,
    "endless output": lambda: _endless(_STARTED, _frame(b"O", _FULL)),
    "output in single bytes": lambda: _endless(_STARTED, _frame(b"E", b"x") * 10_000),
    "no end": lambda: [_STARTED + _EXITED],
    "end without a start": lambda: [_EXITED],
    "no frame": lambda: [],
    "gone": lambda: os._exit(0),
}

def _attack(name):
    for frames in ATTACKS[name]():
        rest = memoryview(frames)
        while rest:
            select.select([], [_sink], [])
            try:
                rest = rest[os.write(_sink, rest):]
            except BlockingIOError:
                pass
    time.sleep(600)

class _HostileInbound(_Inbound):
    def _write(self):
        _, marked, name = bytes(self._buffer).partition(b"attack:")
        if marked:
            _attack(name.partition(b"!")[0].decode())
        super()._write()

_Inbound = _HostileInbound
_honest_serve_run = serve_run

def serve_run(source, sink, user, enter, max_files=0):
    global _sink
    _sink = sink
    _honest_serve_run(source, sink, user, enter, max_files)
"""
_MAIN = '\n\nif __name__ == "__main__":'


@functools.cache  # what is compiled twice need not be the same bytes
def hostile_files() -> dict[str, bytes]:
    """Takes the place of plugins._shared.guest.agent_bundle.agent_files."""
    before, main, rest = inspect.getsource(agent).partition(_MAIN)
    code = compile(before + _TAKEN_OVER + main + rest, "agent.py", "exec")
    unchecked = (1).to_bytes(4, "little") + bytes(8)
    hostile = importlib.util.MAGIC_NUMBER + unchecked + marshal.dumps(code)
    return agent_files() | {"agent.pyc": hostile}
