"""Makes a Python interpreter wait for its program; runs inside the sandbox, before the program.

The interpreter is started with this module as its `sitecustomize` and an empty .pyc file as its
program. The last thing it does before it reads that file is to look up a loader: there it waits.
When its order arrives, the bytecode of the real program replaces the file behind the descriptor
that the interpreter reads next. So the interpreter itself begins and ends the program, without
frames or modules of this product, as if it had been named on the command line.

A program that can't continue this way (other options, no source, a syntax error) is executed in a
new interpreter.

Descriptors: 3 is the pipe that the order comes from (see prewarm_server.py), 4 the pipe that says
that the interpreter waits.
"""

# The program would find every module that is imported here already loaded.
# ruff: noqa: PTH106, PTH108, PTH109, PTH113, PTH116, PTH118, PTH120, PTH123, PTH208, S606
import marshal
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any

_ORDER_FD, _READY_FD = 3, 4
_WORKSPACE = "/workspace"
_TMP = "/tmp"  # noqa: S108 - the sandbox's own
_EXTERNAL: "Any" = sys.modules["_frozen_importlib_external"]
_MAX_DESCRIPTORS = 16
_ZIP_END = b"PK\x05\x06"


class CannotContinue(Exception):
    """This program needs a new interpreter."""


def install_loader() -> None:
    """Replace the loader of .pyc files until its first use."""
    original = _EXTERNAL.SourcelessFileLoader

    def load(_name: str, path: str) -> "Any":
        _EXTERNAL.SourcelessFileLoader = original
        target = _find_descriptor(path)
        _remove_traces(os.path.dirname(path))
        return _continue(*_read_order(), target)

    _EXTERNAL.SourcelessFileLoader = load


def _find_descriptor(path: str) -> int:
    """The descriptor with which the interpreter has opened this file."""
    file = os.stat(path)
    for fd in range(_READY_FD + 1, _MAX_DESCRIPTORS):
        try:
            if os.path.samestat(os.fstat(fd), file):
                return fd
        except OSError:
            continue
    raise CannotContinue


def _remove_traces(folder: str) -> None:
    sys.path[:] = [entry for entry in sys.path if entry != folder]
    sys.path_importer_cache.pop(folder, None)
    sys.modules.pop("sitecustomize", None)
    for name in os.listdir(folder):
        os.unlink(os.path.join(folder, name))
    os.rmdir(folder)


def _read_order() -> tuple[list[str], dict[str, str]]:
    """The command line and the environment."""
    os.write(_READY_FD, b".")
    os.close(_READY_FD)
    with open(_ORDER_FD, "rb") as source:
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
        code, loader = _compile_program(argv[1:])
        _replace_content(_EXTERNAL.MAGIC_NUMBER + bytes(12) + marshal.dumps(code), target)
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


def _compile_program(words: list[str]) -> "tuple[CodeType, Any]":
    if not words or words[0] == "-":
        return _compile_stdin(words)
    if words[0] == "-c" and len(words) > 1:
        return _compile_command(words)
    if words[0] == "-m" and len(words) > 1:
        return _compile_module(words)
    if words[0].startswith("-"):
        raise CannotContinue
    return _compile_script(words)


def _compile_stdin(words: list[str]) -> "tuple[CodeType, Any]":
    source = b"".join(iter(lambda: os.read(0, 1 << 16), b""))
    try:
        code = _compile(source, "<stdin>")
    except BaseException:
        _replace_content(source, 0)
        raise
    _set_main("", words or [""])
    _main()["__file__"] = "<stdin>"
    return code, _main()["__loader__"]


def _compile_command(words: list[str]) -> "tuple[CodeType, Any]":
    code = _compile(words[1].encode() + b"\n", "<string>")
    if sys.version_info >= (3, 13):
        _show_in_tracebacks(code, words[1] + "\n")
    _set_main("", ["-c", *words[2:]])
    _forget_file()
    return code, _main()["__loader__"]


def _compile_script(words: list[str]) -> "tuple[CodeType, Any]":
    path = words[0]
    if not os.path.isfile(path):
        raise CannotContinue
    with open(path, "rb") as file:
        source = file.read()
    if b"\0" in source or _ZIP_END in source:
        raise CannotContinue
    full_path = path if path.startswith("/") else f"{os.getcwd()}/{path}"
    code = _compile(source, full_path)
    _set_main(os.path.dirname(os.path.realpath(path)), words)
    _main()["__file__"] = full_path
    return code, _EXTERNAL.SourceFileLoader("__main__", full_path)


def _compile(source: bytes, name: str) -> "CodeType":
    """Raises what the compiler raises; its warnings are printed only if it does not."""
    warnings: list[str] = []
    stderr, sys.stderr = sys.stderr, _Recorder(warnings)  # type: ignore[assignment]
    try:
        code = compile(source, name, "exec", dont_inherit=True)
    finally:
        sys.stderr = stderr
    for text in warnings:
        stderr.write(text)
    return code


def _show_in_tracebacks(code: "CodeType", source: str) -> None:
    """Register the source of -c, as interpreters from 3.13 on do."""
    import linecache

    cache: Any = linecache
    key = code if hasattr(cache, "_interactive_cache") else code.co_filename
    cache._register_code(key, source, code.co_filename)


class _Recorder:
    def __init__(self, texts: list[str]) -> None:
        self.write = texts.append

    def flush(self) -> None:
        """Nothing is buffered."""


# Modules


def _compile_module(words: list[str]) -> "tuple[CodeType, Any]":
    """A program that does what `runpy` does for -m, with the same lines in tracebacks."""
    import runpy

    runner: Any = runpy
    find, run = (_call_line(runner, name) for name in ("_get_module_details", "_run_code"))
    lines = {
        find - 1: "try:",
        find: f" R._details = R._get_module_details({words[1]!r}, R._Error)",
        find + 1: "except R._Error as exc:",
        find + 2: " R.sys.exit('%s: %s' % (R.sys.executable, exc))",
        run - 1: "R.sys.argv[0] = R._details[1].origin",
        run: "R._run_code(R._details[2], globals(), None, '__main__', R._details[1])",
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


def _call_line(runner: "Any", name: str) -> int:
    """The line of `runpy` that a traceback of `python -m` shows for the call of this function."""
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


# What the program sees


def _main() -> "dict[str, Any]":
    return sys.modules["__main__"].__dict__


def _set_main(folder: str, argv: list[str]) -> None:
    sys.path.insert(0, folder)
    sys.argv[:] = argv


def _forget_file() -> None:
    for name in ("__file__", "__cached__"):
        _main().pop(name, None)


def _replace_content(content: bytes, target: int) -> None:
    """Make this descriptor, which is open already, read this content."""
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
    install_loader()
