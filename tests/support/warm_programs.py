"""Python programs and command lines that must print the same when prewarmed and when fresh."""

import io
import zipfile

from msgspec import Struct

from appliance.domain.execution import SandboxFile

_SHOW_ENVIRONMENT = """
import atexit, inspect, os, resource, signal, sys, traceback
def depth():
    traceback.print_stack()
    return len(inspect.stack())
print(depth(), sys.argv, sys.path, sys.orig_argv, sys.executable, sys._base_executable)
print(sys.flags, sys.warnoptions, sys._xoptions, sys.prefix, sys.stdin, sys.stdout, sys.stderr)
print(sorted(globals()), __name__, __doc__, __package__, __spec__, __builtins__)
print(type(__loader__), globals().get("__file__"), globals().get("__cached__"))
print(dict(os.environ), sorted(os.environb), os.getcwd(), oct(os.umask(0)))
print(sorted(os.listdir("/proc/self/fd")), os.listdir("."), os.listdir("/tmp"))
print(os.getsid(0) == os.getpid(), os.getppid(), [signal.getsignal(n) for n in (2, 13, 25)])
print([resource.getrlimit(n) for n in range(16)], sys.getrecursionlimit())
atexit.register(print, "bye")
def recurse(): recurse()
recurse()
"""

_THREADS = """
import threading, time
def late():
    time.sleep(0.05)
    print("late", threading.current_thread().name, threading.main_thread().is_alive())
threading.Thread(target=late).start()
print(threading.current_thread() is threading.main_thread())
"""

_PROCESSES = """
import multiprocessing
def square(x): return x * x
if __name__ == "__main__":
    for kind in ("spawn", "fork"):
        with multiprocessing.get_context(kind).Pool(1) as pool:
            print(kind, pool.map(square, range(3)))
"""

_PACKAGE_MAIN = """
import sys
print(__name__, __file__, __package__, __spec__.name, sys.argv, sys.path[0])
1 / 0
"""


def _make_archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("__main__.py", "import sys; print(sys.argv, __file__, sys.path[0])\n")
    return buffer.getvalue()


_SOURCES: dict[str, str | bytes] = {
    "everything.py": _SHOW_ENVIRONMENT,
    "modules.py": "import sys; print(sorted(sys.modules))\n",
    "package/__init__.py": "import sys; print('init', __name__, sys.argv)\n",
    "package/__main__.py": _PACKAGE_MAIN,
    "broken/__init__.py": "raise ValueError('broken')\n",
    "folder/__main__.py": "import sys; print(sys.argv, __file__, sys.path[0])\n",
    "archive.pyz": _make_archive(),
    "syntax.py": "x = 1 is 1\ndef f():\n  return (1\n",
    "warns.py": "x = 1 is 1\nimport warnings; warnings.warn('deep', stacklevel=3)\n",
    "latin.py": b"# -*- coding: latin-1 -*-\nprint('\xe9')\n",
    "lines.py": b"\xef\xbb\xbfif 1:\r\n  print('''a\r\nb''')",
    "nul.py": b"print(1)\0\n",
    "itself.py": "import inspect, __main__\nprint(inspect.getsource(__main__))\n",
    "threads.py": _THREADS,
    "processes.py": _PROCESSES,
    "test_it.py": "def test_one(): assert 1\ndef test_two(): assert 1 + 1 == 3\n",
    "reads.py": "import sys; print(sys.stdin.read(), input)\ninput()\n",
    "exits.py": "raise SystemExit('said')\n",
    "interrupt.py": "raise KeyboardInterrupt\n",
    "stops.py": "raise StopIteration(1)\n",
    "chain.py": "try:\n  1/0\nexcept Exception as e:\n  raise KeyError('k') from e\n",
}

FILES = tuple(
    SandboxFile(name, text if isinstance(text, bytes) else text.encode())
    for name, text in _SOURCES.items()
)


class Case(Struct, frozen=True):
    """Arguments, input and environment of `program`."""

    words: tuple[str, ...]
    stdin: bytes = b"some input"
    env: dict[str, str] = {}
    program: str = "python"


_PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py")

CASES = {
    "script": Case(("everything.py", "a", "-c")),
    "script of python3": Case(("everything.py",), program="python3"),
    "script by a longer name": Case(("./package/../everything.py",)),
    "script by its whole name": Case(("/workspace/everything.py",)),
    "module": Case(("-m", "everything", "a")),
    "command": Case(("-c", _SHOW_ENVIRONMENT, "a")),
    "standard input": Case(("-",), _SHOW_ENVIRONMENT.encode()),
    "nothing": Case((), b"import sys; print(sys.argv, __file__); 1/0"),
    "modules of a script": Case(("modules.py",)),
    "modules of a module": Case(("-m", "modules")),
    "modules of a command": Case(("-c", "import sys; print(sorted(sys.modules))")),
    "package": Case(("-m", "package", "a")),
    "missing module": Case(("-m", "package.nothing")),
    "broken package": Case(("-m", "broken.inner")),
    "folder": Case(("folder", "a")),
    "archive": Case(("archive.pyz", "a")),
    "missing script": Case(("nothing.py",)),
    "script with wrong syntax": Case(("syntax.py",)),
    "module with wrong syntax": Case(("-m", "syntax")),
    "command with wrong syntax": Case(("-c", "x =")),
    "input with wrong syntax": Case(("-",), b"x ="),
    "warnings": Case(("warns.py",)),
    "other encoding": Case(("latin.py",)),
    "other line ends": Case(("lines.py",)),
    "a NUL": Case(("nul.py",)),
    "source of itself": Case(("itself.py",)),
    "threads": Case(("threads.py",)),
    "processes": Case(("processes.py",)),
    "processes of a module": Case(("-m", "processes")),
    "pytest": Case(_PYTEST),
    "input": Case(("reads.py",), "ä\n".encode() * 1000),
    "exit with a text": Case(("exits.py",)),
    "interrupted": Case(("interrupt.py",)),
    "stopped iteration": Case(("stops.py",)),
    "chained errors": Case(("chain.py",)),
    "exit code": Case(("-c", "import sys; sys.exit(300)")),
    "quick exit": Case(("-c", "import os; print(1, flush=True); os._exit(7)")),
    "signal": Case(("-c", "import os; os.kill(os.getpid(), 11)")),
    "too much memory": Case(("-c", "x = bytearray(1 << 40)")),
    "options": Case(("-I", "-O", "everything.py")),
    "no word after an option": Case(("-c",)),
    "environment": Case(("everything.py",), env={"A": "b=c", "LC_X": "1", "HOME": "/workspace"}),
    "environment of Python": Case(("everything.py",), env={"PYTHONDONTWRITEBYTECODE": "1"}),
    "small environment": Case(("everything.py",), env={"A": "ä", "_": ""}),
}
