"""The start of an interpreter that waits for its program; runs inside, before the program.

The interpreter is started with this as its `sitecustomize` and an empty .pyc file as its
program. The last thing that it does before it reads that file is to ask for a loader: there
it waits. When its order comes, the real program is put under the descriptor that the
interpreter reads next. So the program is begun and ended by the interpreter itself, with
nothing of ours beneath it or in its way, as if it had been named on the command line.

What can't be continued so (other options, no source, wrong syntax) is started anew.

Descriptors: 3, where the order comes from (see waiting.py); 4, where the waiting is told.
"""

# Every module that is imported here is one more that the program would find loaded.
# ruff: noqa: PTH106, PTH108, PTH109, PTH113, PTH116, PTH118, PTH120, PTH123, PTH208, S606
import marshal
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any

_ORDER, _TOLD = 3, 4
_WORKSPACE = "/workspace"
_TMP = "/tmp"  # noqa: S108 - the sandbox's own
_EXTERNAL: "Any" = sys.modules["_frozen_importlib_external"]
_MOST_DESCRIPTORS = 16
_ARCHIVE = b"PK\x05\x06"


class CannotContinue(Exception):
    """This program has to be started anew."""


def prepare() -> None:
    """Take the place of the loader of .pyc files until it is asked for."""
    usual = _EXTERNAL.SourcelessFileLoader

    def begin(_name: str, path: str) -> "Any":
        _EXTERNAL.SourcelessFileLoader = usual
        target = _descriptor(path)
        _leave_no_trace(os.path.dirname(path))
        return _continue(*_order(), target)

    _EXTERNAL.SourcelessFileLoader = begin


def _descriptor(path: str) -> int:
    """The one under which the interpreter has opened this file."""
    wanted = os.stat(path)
    for fd in range(_TOLD + 1, _MOST_DESCRIPTORS):
        try:
            if os.path.samestat(os.fstat(fd), wanted):
                return fd
        except OSError:
            continue
    raise CannotContinue


def _leave_no_trace(folder: str) -> None:
    sys.path[:] = [entry for entry in sys.path if entry != folder]
    sys.path_importer_cache.pop(folder, None)
    sys.modules.pop("sitecustomize", None)
    for name in os.listdir(folder):
        os.unlink(os.path.join(folder, name))
    os.rmdir(folder)


def _order() -> tuple[list[str], dict[str, str]]:
    """The command line and the environment."""
    os.write(_TOLD, b".")
    os.close(_TOLD)
    with open(_ORDER, "rb") as source:
        words = source.read().split(b"\0")
    if len(words) == 1:
        os._exit(0)
    end = 1 + int(words[0])
    pairs = (os.fsdecode(word).split("=", 1) for word in words[end:-1])
    return [os.fsdecode(word) for word in words[1:end]], dict(pairs)


def _continue(argv: list[str], env: dict[str, str], target: int) -> "Any":
    os.umask(0o022)
    os.chdir(_WORKSPACE)
    try:
        _set_environment(env)
        _set_command_line(argv)
        code, loader = _begin(argv[1:])
        _put(_EXTERNAL.MAGIC_NUMBER + bytes(12) + marshal.dumps(code), target)
    except (CannotContinue, OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        os.execvpe(argv[0], argv, env)
    return loader


def _set_environment(env: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(env)
    raw: dict[bytes, bytes] = sys.modules["posix"].environ
    raw.clear()
    raw.update({os.fsencode(name): os.fsencode(value) for name, value in env.items()})


def _set_command_line(argv: list[str]) -> None:
    sys.orig_argv[:] = argv
    program = os.path.join(os.path.dirname(sys.executable), argv[0])
    sys.executable = program
    sys._base_executable = program  # type: ignore[attr-defined]


def _begin(words: list[str]) -> "tuple[CodeType, Any]":
    if not words or words[0] == "-":
        return _standard_input(words)
    if words[0] == "-c" and len(words) > 1:
        return _command(words)
    if words[0] == "-m" and len(words) > 1:
        return _module(words)
    if words[0].startswith("-"):
        raise CannotContinue
    return _script(words)


def _standard_input(words: list[str]) -> "tuple[CodeType, Any]":
    source = b"".join(iter(lambda: os.read(0, 1 << 16), b""))
    try:
        code = _compiled(source, "<stdin>")
    except BaseException:
        _put(source, 0)
        raise
    _set_main("", words or [""])
    _main()["__file__"] = "<stdin>"
    return code, _main()["__loader__"]


def _command(words: list[str]) -> "tuple[CodeType, Any]":
    code = _compiled(words[1].encode() + b"\n", "<string>")
    if sys.version_info >= (3, 13):
        _show_in_tracebacks(code, words[1] + "\n")
    _set_main("", ["-c", *words[2:]])
    _forget_file()
    return code, _main()["__loader__"]


def _script(words: list[str]) -> "tuple[CodeType, Any]":
    path = words[0]
    if not os.path.isfile(path):
        raise CannotContinue
    with open(path, "rb") as file:
        source = file.read()
    if b"\0" in source or _ARCHIVE in source:
        raise CannotContinue
    whole = path if path.startswith("/") else f"{os.getcwd()}/{path}"
    code = _compiled(source, whole)
    _set_main(os.path.dirname(os.path.realpath(path)), words)
    _main()["__file__"] = whole
    return code, _EXTERNAL.SourceFileLoader("__main__", whole)


def _compiled(source: bytes, name: str) -> "CodeType":
    """Raises what the compiler raises; warnings are told only if it does not."""
    heard: list[str] = []
    stderr, sys.stderr = sys.stderr, _Listener(heard)  # type: ignore[assignment]
    try:
        code = compile(source, name, "exec", dont_inherit=True)
    finally:
        sys.stderr = stderr
    for text in heard:
        stderr.write(text)
    return code


def _show_in_tracebacks(code: "CodeType", source: str) -> None:
    """What newer interpreters do with the source of -c."""
    import linecache

    shown: Any = linecache
    key = code if hasattr(shown, "_interactive_cache") else code.co_filename
    shown._register_code(key, source, code.co_filename)


class _Listener:
    def __init__(self, heard: list[str]) -> None:
        self.write = heard.append

    def flush(self) -> None:
        """Nothing is held back."""


# Modules


def _module(words: list[str]) -> "tuple[CodeType, Any]":
    """A program that does what `runpy` does for -m, seen under its name in tracebacks."""
    import runpy

    runner: Any = runpy
    find, run = (_line(runner, name) for name in ("_get_module_details", "_run_code"))
    lines = {
        find - 1: "try:",
        find: f" R._found = R._get_module_details({words[1]!r}, R._Error)",
        find + 1: "except R._Error as exc:",
        find + 2: " R.sys.exit('%s: %s' % (R.sys.executable, exc))",
        run - 1: "R.sys.argv[0] = R._found[1].origin",
        run: "R._run_code(R._found[2], globals(), None, '__main__', R._found[1])",
    }
    if run - 1 <= find + 2:
        raise CannotContinue
    text = "\n".join(lines.get(number, "") for number in range(1, run + 1))
    text = text.replace("R.", "__import__('runpy').")
    original = runner._run_module_as_main.__code__
    code = compile(text, original.co_filename, "exec", dont_inherit=True)
    code = code.replace(co_name=original.co_name, co_qualname=original.co_qualname)
    _set_main(os.getcwd(), ["-m", *words[2:]])
    _forget_file()
    return code, _main()["__loader__"]


def _line(runner: "Any", name: str) -> int:
    """Where `python -m` stands in a traceback while it calls this function of `runpy`."""
    find, run, argv = runner._get_module_details, runner._run_code, sys.argv[:]

    def stop(*_: object) -> None:
        raise CannotContinue

    def find_nothing(*_: object) -> "tuple[Any, ...]":
        return "", runner.__spec__, None

    runner._get_module_details = find_nothing
    runner._run_code = stop
    setattr(runner, name, stop)
    try:
        runner._run_module_as_main("")
    except CannotContinue as stopped:
        trace = stopped.__traceback__
        called = trace and trace.tb_next
        if called:
            return called.tb_lineno
    finally:
        runner._get_module_details, runner._run_code, sys.argv[:] = find, run, argv
    raise CannotContinue


# What the program finds


def _main() -> "dict[str, Any]":
    return sys.modules["__main__"].__dict__


def _set_main(folder: str, argv: list[str]) -> None:
    sys.path.insert(0, folder)
    sys.argv[:] = argv


def _forget_file() -> None:
    for name in ("__file__", "__cached__"):
        _main().pop(name, None)


def _put(content: bytes, target: int) -> None:
    """Let this content be what is read from a descriptor that is open already."""
    fd = os.open(_TMP, os.O_TMPFILE | os.O_RDWR, 0o600)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.lseek(fd, 0, os.SEEK_SET)
        os.dup2(fd, target, inheritable=target == 0)
    finally:
        os.close(fd)


if __name__ == "sitecustomize":
    prepare()
