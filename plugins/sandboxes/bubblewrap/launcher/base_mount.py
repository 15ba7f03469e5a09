"""Mounts a run's base in its slot: the lower folder of the overlay that becomes its workspace.

Root's runs have user ids of their own, to which the base's files do not belong: an overlay could
not be written to. So the base is mounted with its owner mapped to the run's user (mount_setattr(2),
Linux 5.12), which changes nothing on the disk. An ordinary user's runs have that user's id, and a
bind mount is enough. The overlay itself is mounted by bwrap, in the run's own namespaces.
"""

# ruff: noqa: PTH102, PTH116, PTH123
import os
import struct

from plugins._shared import linux

UPPER, WORK = "upper", "work"
"""Folders of the overlay, on the tmpfs that limits the workspace."""

_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442  # on every architecture
_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x1000, 0x8000
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 4
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV, _ATTR_IDMAP = 1, 2, 4, 0x100000
_MOUNT_ATTR = struct.Struct("=QQQQ")  # set, clear, propagation, user namespace
_SIGKILL = 9


def mount_base(base: str, target: str, workspace: str, uid: int) -> None:
    """Show the base at `target`, and make the overlay's folders in `workspace`. Raises OSError."""
    if os.geteuid() == 0:
        _mount_for_user(base, target, uid)
    else:
        linux.mount(base, target, "none", linux.MS_BIND)
    for name in (UPPER, WORK):
        os.mkdir(f"{workspace}/{name}", 0o755)
        os.chown(f"{workspace}/{name}", uid, uid)


def _mount_for_user(base: str, target: str, uid: int) -> None:
    info = os.stat(base)
    namespace = _open_user_namespace(info.st_uid, info.st_gid, uid)
    tree = -1
    try:
        tree = _syscall(_OPEN_TREE, _AT_FDCWD, os.fsencode(base), _OPEN_TREE_CLONE, 0, 0)
        attributes = _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV | _ATTR_IDMAP
        packed = _MOUNT_ATTR.pack(attributes, 0, 0, namespace)
        _syscall(_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, packed, len(packed))
        where = os.fsencode(target)
        _syscall(_MOVE_MOUNT, tree, b"", _AT_FDCWD, where, _MOVE_MOUNT_F_EMPTY_PATH)
    finally:
        for fd in (namespace, tree):
            if fd >= 0:
                os.close(fd)


def _open_user_namespace(owner: int, group: int, uid: int) -> int:
    """A descriptor of a namespace that maps the owner of files to the run's user."""
    wait, release = os.pipe()
    report, ready = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            linux.unshare(linux.CLONE_NEWUSER)
            os.write(ready, b"+")
            os.close(release)
            os.read(wait, 1)
        finally:
            os._exit(0)
    os.close(ready)
    try:
        if not os.read(report, 1):
            raise OSError(1, "no user namespace for the run's base")
        for name, number in (("uid_map", owner), ("gid_map", group)):
            with open(f"/proc/{pid}/{name}", "w") as file:
                file.write(f"{number} {uid} 1")
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
    finally:
        for fd in (wait, release, report):
            os.close(fd)
        os.kill(pid, _SIGKILL)
        os.waitpid(pid, 0)


def _syscall(number: int, *arguments: object) -> int:
    return linux.call("syscall", *linux.as_longs(number, *arguments))
