"""Memory that a run hides is limited, by a control group or by the init process."""

import pytest
from msgspec import structs

from appliance.domain.execution import EndReason
from tests.support.sandbox import GENEROUS, Backend, run_python

pytest_plugins = ["tests.support.sandbox_fixtures"]
pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMITS = structs.replace(GENEROUS, memory_bytes=128 << 20, wall_s=20.0)

HIDDEN = """
import ctypes, os, time
for _ in range(3):
    if os.fork() == 0:
        ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: nobody else may look
        kept = b'x' * (90 << 20)
        time.sleep(30)
time.sleep(30)
"""

# One page of a file at addresses so far apart that each needs tables of its own.
TABLES = """
import ctypes, os, time
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
fd = os.open('/usr/bin/env', os.O_RDONLY)
for at in range(1, 32_000):
    ctypes.string_at(libc.mmap((1 << 44) + (at << 30), 4096, 1, 0x11, fd, 0), 1)
time.sleep(30)
"""


@pytest.mark.parametrize("code", [HIDDEN, TABLES], ids=["hidden", "tables"])
async def test_memory_when_it_is_hidden_then_counted(backend: Backend, code: str):
    result = await run_python(backend, code, limits=LIMITS)

    assert result.reason is EndReason.MEMORY


SOCKETS = """
import socket
server = socket.create_server(('127.0.0.1', 0))
sent, kept = 0, []
for _ in range(100):
    client = socket.create_connection(server.getsockname())
    kept += [client, server.accept()[0]]
    client.setblocking(False)
    try:
        while sent < 300 << 20:
            sent += client.send(bytes(1 << 20))
    except BlockingIOError:
        pass
__import__('time').sleep(1)
print(sent < 200 << 20)
"""


async def test_memory_when_it_is_queued_in_sockets_then_limited(backend: Backend):
    result = await run_python(backend, SOCKETS, limits=LIMITS)

    assert result.reason is EndReason.MEMORY or result.stdout == b"True\n"
