"""What a person sees of a task while it runs, and of its answer: frames of the stream as lines."""

import re
from collections.abc import Mapping
from typing import Any, cast

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x80-\x9f]")

Frame = Mapping[str, Any]


def printable(text: str) -> str:
    """Text of a model or a program without what could command the terminal."""
    return _CONTROL.sub("", text)


def line_of(frame: Frame) -> str | None:
    """One line for a frame of the stream, None if there is nothing new to say."""
    if frame.get("type") == "start":
        return f"task {frame.get('task_id', '')}"
    if frame.get("type") != "progress":
        return None
    step = _mapping(frame, "progress").get("step")
    if plan := _mapping(frame, "plan"):
        return _plan(plan)
    if branch := _mapping(frame, "branch"):
        return _candidate(branch) if step == "candidate" else _verdict(branch)
    return None if "text" in frame else f"  {printable(str(frame.get('message', '')))}"


def summary(answer: Frame) -> list[str]:
    """What verified an answer and what it cost, from the data of a `complete` frame."""
    verification, metadata = _mapping(answer, "verification"), _mapping(answer, "metadata")
    lines = [_verified(verification)]
    facts = [f"{metadata.get('tokens_used', 0)} tokens"]
    if speed := metadata.get("tokens_per_second"):
        facts.append(f"{speed} tokens/s")
    if seconds := metadata.get("execution_time"):
        facts.append(f"{seconds:.1f} s")
    lines.append(f"{metadata.get('model') or 'no model'}: {', '.join(facts)}")
    warnings: list[str] = _mapping(answer, "result").get("warnings") or []
    return lines + [f"warning: {printable(warning)}" for warning in warnings]


def verified(answer: Frame) -> bool:
    """Whether the answer was run against something and passed all of it; syntax is not enough."""
    verification = _mapping(answer, "verification")
    if verification.get("level") in (None, "none", "syntax"):
        return False
    return bool(verification.get("passed")) and not verification.get("failed")


def _verified(verification: Frame) -> str:
    level = str(verification.get("level", "none")).replace("_", " ")
    if level == "none":
        return "not verified: there was nothing to check it against"
    counts = f"{verification.get('passed', 0)} passed, {verification.get('failed', 0)} failed"
    isolation = verification.get("isolation")
    where = f", in a sandbox ({isolation})" if isolation else ""
    return f"verified by {level}: {counts}{where}"


def _plan(plan: Frame) -> str:
    level = str(plan.get("level", "none")).replace("_", " ")
    count = plan.get("branches", 1)
    candidates = "1 candidate" if count == 1 else f"{count} candidates"
    return f"  {plan.get('persona', '')} with {plan.get('model', '')}: {candidates}, check: {level}"


def _candidate(branch: Frame) -> str:
    tokens = _mapping(branch, "usage").get("completion_tokens", 0)
    seconds = branch.get("seconds") or 0.0
    return f"  {_name(branch)}  written: {tokens} tokens in {seconds:.1f} s"


def _verdict(branch: Frame) -> str:
    passed, failed = branch.get("passed") or 0, branch.get("failed") or 0
    mark = "passed" if passed and not failed else "failed" if failed else "not checked"
    counts = f" {passed} of {passed + failed}" if passed + failed else ""
    said = printable(str(branch.get("summary") or ""))
    return f"  {_name(branch)}  {mark}{counts}{': ' + said if said else ''}"


def _name(branch: Frame) -> str:
    repair = f" (repair {branch['round']})" if branch.get("round") else ""
    return f"candidate {branch.get('branch', 0)}{repair}"


def _mapping(frame: Frame, name: str) -> Frame:
    value = frame.get(name)
    return cast("Frame", value) if isinstance(value, Mapping) else {}
