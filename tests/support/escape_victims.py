"""Objects of the host that a sandbox must not reach, for the time of a test."""

import ctypes
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

_IPC_CREAT, _IPC_RMID, _EVERYBODY = 0o1000, 0, 0o666
_SECRET = b"nobody inside reads this"

_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def victims() -> Generator[dict[str, Any], None, None]:
    """Facts about them, by name."""
    name = f"escape-{secrets.token_hex(6)}"
    with ExitStack() as stack:
        folder = stack.enter_context(_open_folder(name))
        facts: dict[str, Any] = {"open_folder": str(folder)}
        facts["open_file"] = str(_write(folder / "secret"))
        facts["shared_file"] = str(stack.enter_context(_shared_file(name)))
        facts["path_socket"] = _listen_unix(stack, f"{folder}/socket")
        (folder / "socket").chmod(0o666)
        facts["abstract_socket"] = name
        _listen_unix(stack, f"\0{name}")
        facts["port"] = _listen(stack, socket.AF_INET, "127.0.0.1")
        facts["port6"] = _listen(stack, socket.AF_INET6, "::1") if _has_ipv6() else 0
        facts |= stack.enter_context(_sysv())
        facts["queue"] = stack.enter_context(_message_queue(name))
        yield facts


@contextmanager
def _open_folder(name: str) -> Generator[Path, None, None]:
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@contextmanager
def _shared_file(name: str) -> Generator[Path, None, None]:
    path = _write(Path("/dev/shm", name))
    yield path
    path.unlink()


def _write(path: Path) -> Path:
    path.write_bytes(_SECRET)
    path.chmod(0o644)
    return path


def _listen_unix(stack: ExitStack, address: str) -> str:
    server = stack.enter_context(socket.socket(socket.AF_UNIX))
    server.bind(address)
    server.listen()
    return address


def _listen(stack: ExitStack, family: socket.AddressFamily, address: str) -> int:
    server = stack.enter_context(socket.create_server((address, 0), family=family))
    return server.getsockname()[1]


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@contextmanager
def _sysv() -> Generator[dict[str, int], None, None]:
    """Shared memory, a semaphore and a message queue that everybody may use."""
    key = secrets.randbelow(2**30) + 1
    flags = _IPC_CREAT | _EVERYBODY
    shm, sem, msg = _libc.shmget(key, 4096, flags), _libc.semget(key, 1, flags), _msgget(key, flags)
    yield {"key": key, "shm": shm, "sem": sem, "msg": msg}
    _libc.shmctl(shm, _IPC_RMID, None)
    _libc.semctl(sem, 0, _IPC_RMID)
    _libc.msgctl(msg, _IPC_RMID, None)


def _msgget(key: int, flags: int) -> int:
    return _libc.msgget(key, flags)


@contextmanager
def _message_queue(name: str) -> Generator[str, None, None]:
    """A POSIX queue; its name for mq_open(2), "" where the machine has none."""
    library = ctypes.CDLL("librt.so.1", use_errno=True)
    word = f"/{name}".encode()
    queue = library.mq_open(word, os.O_CREAT | os.O_RDWR, 0o666, None)
    yield name if queue >= 0 else ""
    if queue >= 0:
        os.close(queue)
        library.mq_unlink(word)
