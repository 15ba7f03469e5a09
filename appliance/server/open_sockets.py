"""Reads and ends sockets of this process that it does not hold as objects.

Granian accepts connections in its own threads and has no hook there. Its sockets are found by
descriptor number instead: SO_COOKIE identifies a socket for its whole life, so a number that
was closed and given to another one is noticed. ctypes, because a socket object would own the
descriptor.
"""

import ctypes
import errno
import os
import re
import resource
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

Peer = tuple[str, str]
"""Address and port of a client, as Granian writes them into the ASGI scope."""

_SO_COOKIE = 57  # asm-generic/socket.h; socket has no name for it
_COOKIE_BYTES = 8
_TCP_LISTEN = 10
_TCP_NOTSENT_LOWAT = 25  # linux/tcp.h; inherited from the listening socket
# struct tcp_info: tcpi_unacked, tcpi_bytes_acked, tcpi_bytes_received, tcpi_notsent_bytes
_TCP_INFO = struct.Struct("=24xI92xQQ8xI")
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, 0 s
_FD_SIZE = re.compile(rb"^FDSize:\s*(\d+)$", re.MULTILINE)


class TcpCounters(NamedTuple):
    """What TCP_INFO tells of a connection: bytes since it was opened, and whether some wait.

    Bytes that wait were not sent yet, or not acknowledged.
    """

    acked: int
    received: int
    waiting: bool


class OpenSockets:
    """The sockets among the descriptors of this process."""

    def __init__(self) -> None:
        self._getsockopt = ctypes.PyDLL(None).getsockopt  # short calls: the GIL is kept
        self._cookie = ctypes.create_string_buffer(_COOKIE_BYTES)
        self._cookie_size = ctypes.byref(ctypes.c_uint(_COOKIE_BYTES))
        self._info = ctypes.create_string_buffer(_TCP_INFO.size)
        self._info_size = ctypes.byref(ctypes.c_uint(_TCP_INFO.size))

    def is_supported(self) -> bool:
        """Whether the kernel tells all of this (Linux 4.12 does)."""
        with socket.socket() as probe:
            size = len(probe.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size))
            return self.cookie(probe.fileno()) is not None and size == _TCP_INFO.size

    def cookie(self, descriptor: int) -> bytes | None:
        """The identity of a socket; None if this is none or not open."""
        failed = self._getsockopt(
            descriptor, socket.SOL_SOCKET, _SO_COOKIE, self._cookie, self._cookie_size
        )
        return None if failed else self._cookie.raw

    def counters(self, descriptor: int) -> TcpCounters | None:
        """The counters of a TCP socket; None for any other."""
        failed = self._getsockopt(
            descriptor, socket.IPPROTO_TCP, socket.TCP_INFO, self._info, self._info_size
        )
        if failed:
            return None
        unacked, acked, received, unsent = _TCP_INFO.unpack(self._info)
        return TcpCounters(acked, received, bool(unacked or unsent))

    def peer(self, descriptor: int, port: int) -> Peer | None:
        """The client of a connection that was accepted at `port`; None for any other socket.

        Raises OSError if no descriptor is free.
        """
        held = _duplicate(descriptor)
        if held is None:
            return None
        with held:
            if held.family not in (socket.AF_INET, socket.AF_INET6) or _is_listening(held):
                return None
            try:
                if held.getsockname()[1] != port:
                    return None
                address = held.getpeername()
            except OSError:
                return None  # not connected, or no longer
            return address[0].partition("%")[0], str(address[1])

    def limit_unsent(self, port: int, size: int) -> None:
        """Connections accepted at `port` from now on take at most `size` bytes to be sent later.

        Without it the kernel takes megabytes of an answer that its client does not read.
        """
        for descriptor in range(descriptor_slots()):
            held = _duplicate(descriptor) if self.cookie(descriptor) else None
            if held is None:
                continue
            with held:
                is_inet = held.family in (socket.AF_INET, socket.AF_INET6)
                if is_inet and _is_listening(held) and held.getsockname()[1] == port:
                    held.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, size)

    def end(self, descriptor: int, cookie: bytes) -> bool:
        """Shut a connection down; its server then closes it with a reset. False if it is gone.

        The reset frees what the kernel holds for a client that reads nothing. Raises OSError if
        no descriptor is free.
        """
        held = _duplicate(descriptor)
        if held is None:
            return False
        with held:
            if self.cookie(held.fileno()) != cookie:
                return False
            with suppress(OSError):  # disconnected meanwhile
                held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                held.shutdown(socket.SHUT_RDWR)
            return True


def descriptor_slots() -> int:
    """No open descriptor has a number that is as high as this."""
    found = _FD_SIZE.search(Path("/proc/self/status").read_bytes())
    if found is None:
        raise LookupError("/proc/self/status has no FDSize")
    return int(found[1])


def available_open_files(wanted: int) -> int:
    """What `raise_open_files_limit` would return."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY in (soft, hard):
        return max(soft, wanted)
    return max(soft, min(wanted, hard))


def raise_open_files_limit(wanted: int) -> int:
    """Raise the soft limit to `wanted`, as far as the hard limit allows; returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    available = available_open_files(wanted)
    if soft not in (available, resource.RLIM_INFINITY):
        resource.setrlimit(resource.RLIMIT_NOFILE, (available, hard))
    return available


def _duplicate(descriptor: int) -> socket.socket | None:
    """The socket, held so that its number can't be reused; None if it was closed meanwhile.

    Only for descriptors that have just been seen to be sockets. If another file has the number
    by now, the duplicate stays open: to close it would drop all locks of this process on that
    file (fcntl(2)), and with SQLite's locks the database.
    """
    try:
        number = os.dup(descriptor)
    except OSError as error:
        if error.errno == errno.EBADF:
            return None
        raise
    try:
        return socket.socket(fileno=number)
    except OSError:  # another file has its number already
        return None


def _is_listening(found: socket.socket) -> bool:
    if found.type != socket.SOCK_STREAM:
        return False
    return found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_LISTEN
