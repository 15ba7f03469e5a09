"""bwrap options for the system that a run sees: the host's folders, or a root file system's.

A root file system may be hostile: the server never follows a symbolic link in it. Links are
recreated inside, where they lead to what the sandbox has there.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

_SYSTEM_FOLDERS = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
_LIVE_ETC = ("ld.so.cache", "alternatives")
# Configuration that the JDK reads at its start, on Debian and its derivatives.
_JAVA = "java-*-openjdk"
# Folders that a run has of its own, or does not need.
_PRIVATE = (
    "boot", "dev", "etc", "home", "lost+found", "media", "mnt", "opt", "proc", "root", "run",
    "srv", "sys", "tmp", "var", "workspace",
)  # fmt: skip
_PRIVATE_OPT = frozenset({"python", "toolchains", "prepared"})


def system_mount_options(root: Path | None, etc: Path, config: Sequence[str]) -> list[str]:
    """Show the system's programs and libraries, read-only.

    `root` is the folder of a root file system, None for the host's; `etc` is the folder with the
    run's own files of /etc; `config` is what `etc_config_names` gave for the same root.
    """
    base = Path("/") if root is None else root
    words: list[str] = []
    for name in _SYSTEM_FOLDERS:
        words += _bind_or_link(base / name, f"/{name}")
    if root is not None:
        for path, inside in _extra_folders(root):
            words += _bind_or_link(path, inside)
    words += ["--ro-bind", str(etc), "/etc"]
    for name in (*_LIVE_ETC, *config):
        source = base / "etc" / name
        if root is None or _exists_without_links(root, source):
            words += ["--ro-bind-try", str(source), f"/etc/{name}"]
    return words


def etc_config_names(root: Path | None) -> tuple[str, ...]:
    """Folders in /etc that compilers and interpreters of that system read at their start."""
    base = Path("/") if root is None else root
    folders = sorted((base / "etc").glob(_JAVA))
    return tuple(
        path.name
        for path in folders
        if path.is_dir() and (root is None or _exists_without_links(root, path))
    )


def python_mount_options(bundled: Path | None, program: str) -> list[str]:
    """Show the run's Python in /opt/python: the bundled one, or links to the root's `program`."""
    if bundled is not None:
        return ["--ro-bind", str(bundled), "/opt/python"]
    names = ("python", "python3")
    return [word for name in names for word in ("--symlink", program, f"/opt/python/bin/{name}")]


def _extra_folders(root: Path) -> Iterator[tuple[Path, str]]:
    """Other folders of a root that may hold programs, such as /nix, and those in its /opt."""
    for path in sorted(root.iterdir()):
        if path.name not in (*_PRIVATE, *_SYSTEM_FOLDERS):
            yield path, f"/{path.name}"
    if not _exists_without_links(root, root / "opt"):
        return
    for path in sorted((root / "opt").iterdir()):
        if path.name not in _PRIVATE_OPT:
            yield path, f"/opt/{path.name}"


def _bind_or_link(path: Path, inside: str) -> list[str]:
    if path.is_symlink():
        return ["--symlink", str(path.readlink()), inside]
    return ["--ro-bind", str(path), inside] if path.is_dir() else []


def _exists_without_links(root: Path, path: Path) -> bool:
    """Whether it exists and no component of its path below the root is a symbolic link."""
    names = path.relative_to(root).parts
    components = [root.joinpath(*names[: end + 1]) for end in range(len(names))]
    return path.exists() and not any(component.is_symlink() for component in components)
