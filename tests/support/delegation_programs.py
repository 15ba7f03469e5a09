"""Python programs for runs in a delegated control group; each tries to exceed one limit."""

MARK = "marked-by-the-test"

SHOWS_GROUP = """
import os, time
print(open('/proc/self/cgroup').read())
os.fork()
time.sleep(2)
"""
SLEEPS = "import time; time.sleep(100)"
USES_MEMORY = """
import mmap
kept = []
for _ in range(40):
    kept.append(mmap.mmap(-1, 8 << 20))
    kept[-1].write(b'x' * (8 << 20))
"""
USES_MEMORY_IN_CHILDREN = """
import mmap, os, time
for _ in range(8):
    if os.fork() == 0:
        kept = mmap.mmap(-1, 16 << 20)
        kept.write(b'x' * (16 << 20))
        break
time.sleep(100)
"""
FORK_BOMB = f"""
'{MARK}'
import os, signal
for number in (1, 2, 15):
    signal.signal(number, signal.SIG_IGN)
while True:
    try:
        if os.fork() == 0:
            os.setsid()
    except BlockingIOError:
        pass
"""
BUSY = "import os\nos.fork()\nwhile True: pass"
ANOTHER_SERVICE = """
import json
from appliance.domain.execution import Limits
from plugins._shared.cgroups.controller import CgroupController
controller = CgroupController()
controller.release_group(controller.create_run_group(Limits()))
controller.close()
print(json.dumps(controller.layers))
"""
FORKS_AFTER_A_LINE = """
import os, signal, sys
sys.stdin.readline()
try:
    while True:
        if os.fork() == 0:
            os.setsid()
            signal.pause()
except BlockingIOError:
    print('refused', flush=True)
    signal.pause()
"""
