"""What a run sees of a system: the host's own folders, or those of a root file system.

A root file system was brought by the administrator and may be hostile: nothing in it that
is a link is ever followed out here. A link is made anew inside, where it leads to what is there.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

_SYSTEM = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
_LIVE_ETC = ("ld.so.cache", "alternatives")
# Where Debian and its kin keep what the JDK reads at its start.
_JAVA = "java-*-openjdk"
# What a run has of its own, or no run needs.
_OWN = (
    "boot", "dev", "etc", "home", "lost+found", "media", "mnt", "opt", "proc", "root", "run",
    "srv", "sys", "tmp", "var", "workspace",
)  # fmt: skip
_OWN_OPT = frozenset({"python", "toolchains", "prepared"})


def system(root: Path | None, etc: Path, config: Sequence[str]) -> list[str]:
    """Options of bwrap that show the system's programs and libraries, read-only.

    `root` is the folder of a root file system, None for the host's; `etc` the folder with the
    run's own few files of /etc, and `config` what `config_of` gave for the same root.
    """
    base = Path("/") if root is None else root
    words: list[str] = []
    for name in _SYSTEM:
        words += _shown(base / name, f"/{name}")
    if root is not None:
        for path, inside in _further(root):
            words += _shown(path, inside)
    words += ["--ro-bind", str(etc), "/etc"]
    for name in (*_LIVE_ETC, *config):
        source = base / "etc" / name
        if root is None or _plain(root, source):
            words += ["--ro-bind-try", str(source), f"/etc/{name}"]
    return words


def config_of(root: Path | None) -> tuple[str, ...]:
    """The folders in /etc that compilers and interpreters of that system read at their start."""
    base = Path("/") if root is None else root
    found = sorted((base / "etc").glob(_JAVA))
    return tuple(
        path.name for path in found if path.is_dir() and (root is None or _plain(root, path))
    )


def python(own: Path | None, program: str) -> list[str]:
    """Options of bwrap that put the run's Python into /opt/python.

    `own` is the folder of the box's; without it, `program` names the root's.
    """
    if own is not None:
        return ["--ro-bind", str(own), "/opt/python"]
    names = ("python", "python3")
    return [word for name in names for word in ("--symlink", program, f"/opt/python/bin/{name}")]


def _further(root: Path) -> Iterator[tuple[Path, str]]:
    """What else a root may hold programs in, such as /nix, and what is in its /opt."""
    for path in sorted(root.iterdir()):
        if path.name not in (*_OWN, *_SYSTEM):
            yield path, f"/{path.name}"
    if not _plain(root, root / "opt"):
        return
    for path in sorted((root / "opt").iterdir()):
        if path.name not in _OWN_OPT:
            yield path, f"/opt/{path.name}"


def _shown(path: Path, inside: str) -> list[str]:
    if path.is_symlink():
        return ["--symlink", str(path.readlink()), inside]
    return ["--ro-bind", str(path), inside] if path.is_dir() else []


def _plain(root: Path, path: Path) -> bool:
    """Whether it is there, and no part of the way to it is a link."""
    names = path.relative_to(root).parts
    ways = [root.joinpath(*names[: end + 1]) for end in range(len(names))]
    return path.exists() and not any(way.is_symlink() for way in ways)
