"""Selects the sandbox backend from the results of the probes."""

from collections.abc import Iterable, Sequence

from appliance.config.settings import SandboxSettings
from appliance.domain.execution import BackendStatus, IsolationLevel

# From the weakest isolation to the strongest.
_LEVELS = (IsolationLevel.NAMESPACES, IsolationLevel.GVISOR, IsolationLevel.MICROVM)


def list_auto_backends(backends: Iterable[str], settings: SandboxSettings) -> list[str]:
    """The backends that `auto` probes: all, but microvm only with a root or if it is required.

    Without a configured root file system a micro-VM has Python and a shell only: the host's other
    languages would be lost for an isolation level that nobody asked for.
    """
    names = sorted(backends)
    if settings.rootfs or settings.require == IsolationLevel.MICROVM:
        return names
    return [name for name in names if name != IsolationLevel.MICROVM] or names


def select_strongest(probed: Sequence[BackendStatus], required: str) -> BackendStatus:
    """The status of the strongest backend, or of none with the reason why."""
    usable = [status for status in probed if status.available and status.isolation]
    if not usable:
        return probed[0] if len(probed) == 1 else _combine_problems(probed)
    best = max(usable, key=_strength)
    if required and _strength(best) < _LEVELS.index(IsolationLevel(required)):
        return unavailable_status(
            f"the setting sandbox.require demands {required}; "
            f"this machine offers {_LEVELS[_strength(best)]}",
            "install a stronger backend, or lower that setting",
        )
    return best


def unavailable_status(problem: str, remedy: str) -> BackendStatus:
    """The status of a sandbox without backend: `problem`, and the `remedy` for it."""
    return BackendStatus("none", False, problem=problem, remedy=remedy)


def _strength(status: BackendStatus) -> int:
    return _LEVELS.index(status.isolation.level) if status.isolation else -1


def _combine_problems(probed: Sequence[BackendStatus]) -> BackendStatus:
    problems = "; ".join(f"{status.name}: {status.problem}" for status in probed)
    remedies = "; ".join(filter(None, (status.remedy for status in probed)))
    return unavailable_status(problems or "no sandbox backend is installed", remedies)
