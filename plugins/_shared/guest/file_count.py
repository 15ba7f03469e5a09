"""Counts the files of a run, for guests whose kernel holds no limit on their number.

Loaded beside the agent, which looks from time to time and ends what has too many. It has to
be allowed to list every folder.
"""

# ruff: noqa: S108
import os
import time

_PAUSE_S = 0.1
# Looking takes a small part of the time at most.
_PAUSES_PER_LOOK = 20
_FOLDERS = ("/workspace", "/tmp", "/dev/shm")


class FileCount:
    """Of more than `most` in one of the folders that a run may write to."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._next = 0.0

    def exceeded(self) -> bool:
        """Whether there are too many; False without a look soon after the last one."""
        began = time.monotonic()
        if began < self._next:
            return False
        found = any(holds_more(folder, self.most) for folder in _FOLDERS)
        ended = time.monotonic()
        self._next = ended + max(_PAUSE_S, _PAUSES_PER_LOOK * (ended - began))
        return found


def holds_more(folder: str, most: int) -> bool:
    """Whether more than so many files and folders lie below it, or some that can't be seen."""
    left = most
    todo = [folder]
    while todo:
        try:
            with os.scandir(todo.pop()) as entries:
                for entry in entries:
                    left -= 1
                    if left < 0:
                        return True
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
        except (FileNotFoundError, NotADirectoryError):  # it was taken away just now
            continue
        except OSError:  # such as a path that is too long
            return True
    return False
