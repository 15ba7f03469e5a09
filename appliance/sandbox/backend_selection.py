"""Which of the backends that were probed confines the runs."""

from collections.abc import Iterable, Sequence

from appliance.config.settings import SandboxSettings
from appliance.domain.execution import BackendStatus, IsolationLevel

# From the weakest wall to the strongest.
_LEVELS = (IsolationLevel.NAMESPACES, IsolationLevel.GVISOR, IsolationLevel.MICROVM)


def meant_by_auto(backends: Iterable[str], settings: SandboxSettings) -> list[str]:
    """All, but a machine of its own only where its root is set or nothing less will do.

    Without a root file system of the administrator's it has Python and a shell, and the
    host's other languages would be gone for a wall that nobody asked for.
    """
    names = sorted(backends)
    if settings.rootfs or settings.require == IsolationLevel.MICROVM:
        return names
    return [name for name in names if name != IsolationLevel.MICROVM] or names


def strongest(probed: Sequence[BackendStatus], required: str) -> BackendStatus:
    """The status of the chosen one; of none, with the reason, where none is good enough."""
    works = [status for status in probed if status.available and status.isolation]
    if not works:
        return probed[0] if len(probed) == 1 else _no_backend(probed)
    best = max(works, key=_strength)
    if required and _strength(best) < _LEVELS.index(IsolationLevel(required)):
        return none(
            f"the setting sandbox.require asks for {required}; "
            f"this machine offers {_LEVELS[_strength(best)]}",
            "install a stronger backend, or lower that setting",
        )
    return best


def none(problem: str, remedy: str) -> BackendStatus:
    """That nothing can be run, and what helps."""
    return BackendStatus("none", False, problem=problem, remedy=remedy)


def _strength(status: BackendStatus) -> int:
    return _LEVELS.index(status.isolation.level) if status.isolation else -1


def _no_backend(probed: Sequence[BackendStatus]) -> BackendStatus:
    problems = "; ".join(f"{status.name}: {status.problem}" for status in probed)
    remedies = "; ".join(filter(None, (status.remedy for status in probed)))
    return none(problems or "no sandbox backend is installed", remedies)
