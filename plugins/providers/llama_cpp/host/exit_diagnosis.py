"""Explains how an engine ended, in a sentence with advice that any client may see."""

import re
import signal

_LIKELY_CAUSES = {
    signal.SIGKILL: "the system killed it, most likely for lack of memory: choose a smaller "
    "model, or lower models.context_tokens or models.max_sequences",
    signal.SIGABRT: "llama.cpp aborted: the model file may be damaged or of a kind that this "
    "version does not support",
    signal.SIGSEGV: "it crashed: the model file may be damaged",
    signal.SIGBUS: "it could not read the model file: the file shrank or its disk failed",
    signal.SIGILL: "this build uses CPU instructions that this machine lacks",
    signal.SIGFPE: "it crashed: the model file may be damaged",
}
_NOISE_PREFIXES = (
    "ggml_print_backtrace",
    "WARNING: Using native backtrace",
    "See: http",
    "[New LWP",
)
_PATH = re.compile(r"(?:/[^\s/'\":]+)+/")
_MAX_LINES = 2
_MAX_LINE_LENGTH = 200


def diagnose_exit(returncode: int | None, errors: str) -> str:
    """One line: how the process ended, the likely cause, and the last errors of llama.cpp."""
    last = last_error_lines(errors)
    return _describe_exit(returncode) + (f" (last errors: {last})" if last else "")


def last_error_lines(errors: str) -> str:
    """The last lines of an error output, without paths of this machine's folders."""
    lines = [line.strip() for line in errors.splitlines()]
    relevant = [line for line in lines if line and not line.startswith(_NOISE_PREFIXES)]
    return "; ".join(strip_folders(line)[:_MAX_LINE_LENGTH] for line in relevant[-_MAX_LINES:])


def strip_folders(text: str) -> str:
    """The text with every absolute path reduced to its last part."""
    return _PATH.sub("", text)


def _describe_exit(returncode: int | None) -> str:
    if returncode is None:
        return "the engine closed its connection"
    if returncode >= 0:
        return f"the engine ended with status {returncode}"
    try:
        number = signal.Signals(-returncode)
    except ValueError:
        return f"the engine was ended by signal {-returncode}"
    cause = _LIKELY_CAUSES.get(number)
    return f"the engine was ended by {number.name}" + (f": {cause}" if cause else "")
