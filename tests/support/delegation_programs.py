"""What the runs in a delegated control group do: Python programs, each against one limit."""

MARK = "marked-by-the-test"

STAYS = """
import os, time
print(open('/proc/self/cgroup').read())
os.fork()
time.sleep(2)
"""
SLEEPS = "import time; time.sleep(100)"
HUNGRY = """
import mmap
kept = []
for _ in range(40):
    kept.append(mmap.mmap(-1, 8 << 20))
    kept[-1].write(b'x' * (8 << 20))
"""
HUNGRY_FAMILY = """
import mmap, os, time
for _ in range(8):
    if os.fork() == 0:
        kept = mmap.mmap(-1, 16 << 20)
        kept.write(b'x' * (16 << 20))
        break
time.sleep(100)
"""
BOMB = f"""
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
from plugins.sandboxes.bubblewrap.fence import Fence
fence = Fence()
fence.give_up(fence.make(Limits()))
fence.close()
print(json.dumps(fence.layers))
"""
FORKS_ON_ORDER = """
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
