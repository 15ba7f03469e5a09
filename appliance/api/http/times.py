"""Times as clients see them: ISO 8601, UTC, with a Z."""

from datetime import UTC, datetime


def iso(at: float) -> str:
    """Epoch seconds as text, to the millisecond."""
    text = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def iso_or_none(at: float | None) -> str | None:
    return None if at is None else iso(at)
