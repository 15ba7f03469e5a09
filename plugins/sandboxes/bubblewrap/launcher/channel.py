"""The launcher's end of the socket to the service."""

import _socket
import os
import struct

from plugins.sandboxes.bubblewrap.launcher import wire

_MSG_CMSG_CLOEXEC = 0x40000000
_TRUNCATED = _socket.MSG_TRUNC | _socket.MSG_CTRUNC
_FD = struct.Struct("=i")
_MAX_FDS = 16


class Channel:
    """Uses a duplicate of descriptor `fd`, a socket that the service has connected."""

    def __init__(self, fd: int) -> None:
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, os.dup(fd))

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self) -> tuple[list[bytes], list[int]] | None:
        """The words and descriptors of the next message; None once the service is gone.

        A message that was truncated has no descriptors. Raises ValueError if it is malformed.
        """
        try:
            data, extra, flags, _ = self._socket.recvmsg(
                wire.MAX_MESSAGE_BYTES, _socket.CMSG_SPACE(_FD.size * _MAX_FDS), _MSG_CMSG_CLOEXEC
            )
        except ConnectionError:
            return None
        if not data:
            return None
        fds = [fd for *_, packed in extra for (fd,) in _FD.iter_unpack(packed)]
        if flags & _TRUNCATED:
            for fd in fds:
                os.close(fd)
            fds = []
        return wire.unpack(data), fds

    def send(self, *words: bytes, fds: tuple[int, ...] = ()) -> None:
        """Send a message; if the service is gone, `receive` tells."""
        packed = b"".join(map(_FD.pack, fds))
        extra = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)] if fds else []
        try:
            self._socket.sendmsg([wire.pack(*words)], extra)
        except ConnectionError:
            return

    def close(self) -> None:
        self._socket.close()
