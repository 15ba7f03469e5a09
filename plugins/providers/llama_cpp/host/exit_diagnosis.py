"""Turns the way an engine ended into a sentence that helps, fit for any client."""

import re
import signal

_LIKELY_CAUSE = {
    signal.SIGKILL: "the system killed it, most likely for lack of memory: choose a smaller "
    "model, or lower models.context_tokens or models.max_sequences",
    signal.SIGABRT: "llama.cpp gave up: the model file may be damaged or of a kind that this "
    "version does not know",
    signal.SIGSEGV: "it crashed: the model file may be damaged",
    signal.SIGBUS: "it could not read the model file: the file shrank or its disk failed",
    signal.SIGILL: "this build uses CPU instructions that this machine does not have",
    signal.SIGFPE: "it crashed: the model file may be damaged",
}
_NOISE = ("ggml_print_backtrace", "WARNING: Using native backtrace", "See: http", "[New LWP")
_PATH = re.compile(r"(?:/[^\s/'\":]+)+/")
_LAST_LINES = 2
_LINE_LENGTH = 200


def why_it_ended(returncode: int | None, errors: str) -> str:
    """One line: how the process ended, what llama.cpp last complained of, what to do."""
    last = last_errors(errors)
    said = f" (it said: {last})" if last else ""
    return f"{_ending(returncode)}{said}"


def last_errors(errors: str) -> str:
    """The last lines of an error output, without folders of the box."""
    lines = [line.strip() for line in errors.splitlines()]
    telling = [line for line in lines if line and not line.startswith(_NOISE)]
    return "; ".join(without_folders(line)[:_LINE_LENGTH] for line in telling[-_LAST_LINES:])


def without_folders(text: str) -> str:
    """The text with every absolute path cut down to its last part."""
    return _PATH.sub("", text)


def _ending(returncode: int | None) -> str:
    if returncode is None:
        return "the engine closed its connection"
    if returncode >= 0:
        return f"the engine ended with status {returncode}"
    try:
        number = signal.Signals(-returncode)
    except ValueError:
        return f"the engine was ended by signal {-returncode}"
    cause = _LIKELY_CAUSE.get(number)
    return f"the engine was ended by {number.name}" + (f": {cause}" if cause else "")
