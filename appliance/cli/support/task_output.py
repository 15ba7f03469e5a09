"""Text output of a task: one line per stream frame, and a summary of the answer."""

import re
from collections.abc import Mapping
from typing import Any, cast

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x80-\x9f]")

Frame = Mapping[str, Any]


def printable(text: str) -> str:
    """Text without control characters that a terminal would interpret."""
    return _CONTROL.sub("", text)


def format_frame(frame: Frame) -> str | None:
    """One line for a stream frame, or None if it holds nothing to show."""
    if frame.get("type") == "start":
        return f"task {frame.get('task_id', '')}"
    if frame.get("type") != "progress":
        return None
    step = _mapping(frame, "progress").get("step")
    if plan := _mapping(frame, "plan"):
        return _format_plan(plan)
    if branch := _mapping(frame, "branch"):
        return _format_candidate(branch) if step == "candidate" else _format_verdict(branch)
    return None if "text" in frame else f"  {printable(str(frame.get('message', '')))}"


def summary_lines(answer: Frame) -> list[str]:
    """Verification and usage of an answer, from the data of a `complete` frame."""
    verification, metadata = _mapping(answer, "verification"), _mapping(answer, "metadata")
    lines = [_format_verification(verification)]
    facts = [f"{metadata.get('tokens_used', 0)} tokens"]
    if speed := metadata.get("tokens_per_second"):
        facts.append(f"{speed} tokens/s")
    if seconds := metadata.get("execution_time"):
        facts.append(f"{seconds:.1f} s")
    lines.append(f"{metadata.get('model') or 'no model'}: {', '.join(facts)}")
    warnings: list[str] = _mapping(answer, "result").get("warnings") or []
    return lines + [f"warning: {printable(warning)}" for warning in warnings]


def is_verified(answer: Frame) -> bool:
    """Whether the answer was run against a check and passed; a syntax check is not enough."""
    verification = _mapping(answer, "verification")
    if verification.get("level") in (None, "none", "syntax"):
        return False
    return bool(verification.get("passed")) and not verification.get("failed")


def _format_verification(verification: Frame) -> str:
    level = str(verification.get("level", "none")).replace("_", " ")
    if level == "none":
        return "not verified: there was nothing to check it against"
    counts = f"{verification.get('passed', 0)} passed, {verification.get('failed', 0)} failed"
    isolation = verification.get("isolation")
    where = f", in a sandbox ({isolation})" if isolation else ""
    return f"verified by {level}: {counts}{where}"


def _format_plan(plan: Frame) -> str:
    level = str(plan.get("level", "none")).replace("_", " ")
    count = plan.get("branches", 1)
    candidates = "1 candidate" if count == 1 else f"{count} candidates"
    return f"  {plan.get('persona', '')} with {plan.get('model', '')}: {candidates}, check: {level}"


def _format_candidate(branch: Frame) -> str:
    tokens = _mapping(branch, "usage").get("completion_tokens", 0)
    seconds = branch.get("seconds") or 0.0
    return f"  {_candidate_name(branch)}  written: {tokens} tokens in {seconds:.1f} s"


def _format_verdict(branch: Frame) -> str:
    passed, failed = branch.get("passed") or 0, branch.get("failed") or 0
    mark = "passed" if passed and not failed else "failed" if failed else "not checked"
    counts = f" {passed} of {passed + failed}" if passed + failed else ""
    summary = printable(str(branch.get("summary") or ""))
    return f"  {_candidate_name(branch)}  {mark}{counts}{': ' + summary if summary else ''}"


def _candidate_name(branch: Frame) -> str:
    repair = f" (repair {branch['round']})" if branch.get("round") else ""
    return f"candidate {branch.get('branch', 0)}{repair}"


def _mapping(frame: Frame, name: str) -> Frame:
    value = frame.get(name)
    return cast("Frame", value) if isinstance(value, Mapping) else {}
