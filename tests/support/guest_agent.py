"""A real guest agent for tests: PID 1 in its own namespaces, connected by a socket pair."""

import asyncio
import os
import socket
import subprocess
from pathlib import Path

from plugins._shared import bwrap_binary
from plugins._shared.guest.agent_bundle import agent_files
from tests.support.sandbox import ORDINARY_USER

_SYSTEM = ("/usr", "/bin", "/lib", "/lib64")


class AgentProcess:
    """Implements plugins._shared.guest.run.Guest; never root on the machine itself."""

    def __init__(self, python: Path, files: Path) -> None:
        """`files` is an empty folder; the ordinary user must be able to read both."""
        for name, content in agent_files().items():
            (files / name).write_bytes(content)
            (files / name).chmod(0o644)
        self.ours, theirs = socket.socketpair()
        user = ORDINARY_USER if os.geteuid() == 0 else None
        self.process = subprocess.Popen(
            _command(python, files),
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            env={},
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )
        theirs.close()

    @property
    def ends(self) -> tuple[int, int]:
        """Two descriptors of the channel, which the caller closes."""
        return os.dup(self.ours.fileno()), self.ours.detach()

    def kill(self) -> None:
        self.process.kill()

    async def end(self) -> None:
        self.kill()
        await asyncio.to_thread(self.process.wait, 30)

    def cpu_us(self) -> int:
        return 0


def _command(python: Path, files: Path) -> list[str]:
    words = [
        str(bwrap_binary.locate_bwrap().program),
        "--unshare-all",
        "--as-pid-1",
        "--die-with-parent",
    ]
    words += ["--uid", "0", "--gid", "0", "--cap-add", "ALL", "--proc", "/proc", "--dev", "/dev"]
    for path in map(Path, _SYSTEM):
        if path.is_symlink():
            words += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            words += ["--ro-bind", str(path), str(path)]
    words += ["--ro-bind", str(python), "/opt/python", "--ro-bind", str(files), "/agent"]
    words += ["--tmpfs", "/workspace", "--tmpfs", "/tmp"]
    return [*words, "/opt/python/bin/python3", "-I", "-S", "/agent/agent.pyc", "0", "1", "-1"]
