"""A child's end on a kernel without pidfd_open."""

import subprocess
import sys
from pathlib import Path

from plugins._shared.stage import init

_WITHOUT_PIDFD = """
import errno, os, select, sys
def missing(*_): raise OSError(errno.ENOSYS, "none")
os.pidfd_open = missing
sys.path.insert(0, sys.argv[1])
import pidfd
pidfd.provide()
read_end, write_end = os.pipe()
child = os.fork()
if child == 0:
    os.read(read_end, 1)
    os._exit(5)
handle = os.pidfd_open(child)
assert not select.select([handle], [], [], 0)[0]
os.write(write_end, b"x")
assert select.select([handle], [], [], 30)[0]
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
os.close(handle)
gone = os.fork()
if gone == 0:
    os._exit(0)
os.waitid(os.P_PID, gone, os.WEXITED | os.WNOWAIT)
assert select.select([os.pidfd_open(gone)], [], [], 30)[0]
print("good")
"""


def test_handle_of_a_child_on_a_kernel_without_one_tells_its_end():
    folder = Path(init.__file__).parents[1] / "guest"
    command = [sys.executable, "-I", "-c", _WITHOUT_PIDFD, str(folder)]

    done = subprocess.run(command, capture_output=True, timeout=60, check=False)

    assert done.stdout == b"good\n", done.stderr
