"""A shell that outlives the service by a moment, to clear away its runs' control groups.

The runs themselves die with the service, all but a bwrap that was killed just as it had
made its child, which then waits for ever; and their groups would stay. The shell waits
for the end of a pipe that only the service holds: however that one ends, the shell reads it.
"""

import contextlib
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

_WAIT_S = 10.0
_SCRIPT = """
read -r _
tries=0
while [ $tries -lt 150 ]; do
  left=
  for top; do
    for group in "$top"/*/; do
      [ -d "$group" ] || continue
      if [ -e "$group/cgroup.kill" ]; then echo 1 >"$group/cgroup.kill"
      else while read -r pid; do kill -9 "$pid"; done <"$group/cgroup.procs"; fi
      rmdir "$group"
    done
    [ -d "$top" ] && { rmdir "$top" || left=yes; }
  done
  [ -z "$left" ] && exit 0
  tries=$((tries + 1)); sleep 0.2
done
"""


class Keeper:
    """Started once the groups' parents are made; `close` when they are removed."""

    def __init__(self, tops: Sequence[Path]) -> None:
        """Raises OSError if there is no shell."""
        read_end, self._write_end = os.pipe()
        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _SCRIPT, "sh", *map(str, tops)],
                stdin=read_end,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={"PATH": "/usr/bin:/bin"},
                cwd="/",
                start_new_session=True,
            )
        except OSError:
            os.close(self._write_end)
            raise
        finally:
            os.close(read_end)

    def close(self) -> None:
        """Let it do its work and see its end."""
        os.close(self._write_end)
        try:
            self._process.wait(_WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def keeper(tops: Sequence[Path]) -> Keeper | None:
    """None where there is no shell: what a killed service leaves is then removed at its start."""
    with contextlib.suppress(OSError):
        return Keeper(tops)
    return None
