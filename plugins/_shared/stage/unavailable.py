"""Why code can't be run, and what to do about it."""

from appliance.errors import ApplianceError, SandboxUnavailable

_NO_REMEDY = "see the log of the service"


def unavailable(problem: str, remedy: str) -> SandboxUnavailable:
    """The error that says both; `details` holds the remedy apart."""
    return SandboxUnavailable(f"{problem}: {remedy}", details={"remedy": remedy})


def told(error: ApplianceError) -> tuple[str, str]:
    """(problem, remedy) of such an error, or of another one."""
    remedy = str(error.details.get("remedy", _NO_REMEDY))
    return error.message.removesuffix(f": {remedy}"), remedy
