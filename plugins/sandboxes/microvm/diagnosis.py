"""Why no machine can be started here, and what the administrator can do about it."""

from appliance.errors import SandboxUnavailable


def unavailable(problem: str, remedy: str) -> SandboxUnavailable:
    """The error that says both; `details` holds the remedy apart."""
    return SandboxUnavailable(f"{problem}: {remedy}", details={"remedy": remedy})
