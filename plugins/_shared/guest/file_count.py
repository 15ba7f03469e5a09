"""Counts the files of a run, for guests whose kernel has no limit on their number.

The agent loads this module, checks from time to time and ends a run that has too many files. It
must be allowed to list every folder.
"""

# ruff: noqa: S108
import os
import time

_PAUSE_S = 0.1
# Pause this many times as long as the last check took, so that checks cost little.
_PAUSE_FACTOR = 20
_FOLDERS = ("/workspace", "/tmp", "/dev/shm")


class FileCounter:
    """Checks whether a folder that the run may write to has more than `max_files` entries."""

    def __init__(self, max_files: int) -> None:
        self.max_files = max_files
        self._next_check = 0.0

    def exceeded(self) -> bool:
        """Whether there are too many; False without a check soon after the last one."""
        start = time.monotonic()
        if start < self._next_check:
            return False
        exceeded = any(contains_more_than(folder, self.max_files) for folder in _FOLDERS)
        end = time.monotonic()
        self._next_check = end + max(_PAUSE_S, _PAUSE_FACTOR * (end - start))
        return exceeded


def contains_more_than(folder: str, max_files: int) -> bool:
    """Whether more files and folders than that lie below it, or some that can't be listed."""
    remaining = max_files
    todo = [folder]
    while todo:
        try:
            with os.scandir(todo.pop()) as entries:
                for entry in entries:
                    remaining -= 1
                    if remaining < 0:
                        return True
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
        except (FileNotFoundError, NotADirectoryError):  # removed meanwhile
            continue
        except OSError:  # such as a path that is too long
            return True
    return False
