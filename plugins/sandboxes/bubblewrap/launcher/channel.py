"""The launcher's end of the socket to the service."""

import _socket
import os
import struct

from plugins.sandboxes.bubblewrap.launcher import wire

_FLAGS = 0x40000000  # MSG_CMSG_CLOEXEC
_CUT_OFF = _socket.MSG_TRUNC | _socket.MSG_CTRUNC
_FD = struct.Struct("=i")
_MOST_FDS = 16


class Channel:
    """Takes the place of descriptor `fd`, which the service has connected."""

    def __init__(self, fd: int) -> None:
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, os.dup(fd))

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self) -> tuple[list[bytes], list[int]] | None:
        """The next words and descriptors; None when the service is gone.

        Raises ValueError if it is no message, or one of which a part could not be taken.
        """
        try:
            data, extra, flags, _ = self._socket.recvmsg(
                wire.MOST_BYTES, _socket.CMSG_SPACE(_FD.size * _MOST_FDS), _FLAGS
            )
        except ConnectionError:
            return None
        if not data:
            return None
        fds = [fd for *_, packed in extra for (fd,) in _FD.iter_unpack(packed)]
        if flags & _CUT_OFF:
            for fd in fds:
                os.close(fd)
            fds = []
        return wire.unpack(data), fds

    def send(self, *words: bytes, fds: tuple[int, ...] = ()) -> None:
        """A service that is gone is seen by `receive`."""
        packed = b"".join(map(_FD.pack, fds))
        extra = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)] if fds else []
        try:
            self._socket.sendmsg([wire.pack(*words)], extra)
        except ConnectionError:
            return

    def close(self) -> None:
        self._socket.close()
