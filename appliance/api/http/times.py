"""Timestamps in responses: ISO 8601, UTC, with the suffix Z."""

from datetime import UTC, datetime


def iso(at: float) -> str:
    """Format epoch seconds, with milliseconds."""
    text = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def iso_or_none(at: float | None) -> str | None:
    return None if at is None else iso(at)
