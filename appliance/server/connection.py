"""State and deadlines of one connection, fed with what the kernel counts."""

from dataclasses import dataclass
from enum import StrEnum

from appliance.config.settings import ServerSettings
from appliance.server.open_sockets import Peer, TcpCounters

_FRAMING_BYTES = 64 * 1024
_PING_BYTES_PER_S = 256.0


class EndReason(StrEnum):
    """Why a connection was ended. An idle one is closed by Granian and has no reason here."""

    SLOW_HEADER = "slow_header"
    UNREAD_ANSWER = "unread_answer"
    LARGE_MESSAGE = "large_message"
    ADDRESS_LIMIT = "address_limit"
    TOTAL_LIMIT = "total_limit"


@dataclass(slots=True)
class Connection:
    """A connection that was first seen at `idle_since`."""

    descriptor: int
    cookie: bytes
    peer: Peer
    address: str
    """The key under which connections are counted, see domain.addresses."""
    idle_since: float
    handled_bytes: float = 0.0
    """How many received bytes belong to requests or WebSocket messages that were handled."""
    incomplete_since: float | None = None
    acked: int = -1
    unread_since: float = 0.0

    def check_idle(
        self, counters: TcpCounters, now: float, limits: ServerSettings
    ) -> EndReason | None:
        """Check a connection without a request in progress since the last look.

        What it received since is the beginning of a header.
        """
        if counters.received <= self.handled_bytes:
            return None
        if self.incomplete_since is None:
            self.incomplete_since = now
        late = now - self.incomplete_since >= limits.header_timeout_s
        return EndReason.SLOW_HEADER if late else None

    def check_websocket(
        self, counters: TcpCounters, elapsed_s: float, limits: ServerSettings
    ) -> EndReason | None:
        """Check a WebSocket of which no message arrived since the last look, `elapsed_s` ago.

        Pings and pongs, which are no messages here, are allowed for by their rate.
        """
        pings = elapsed_s * _PING_BYTES_PER_S
        self.handled_bytes = min(self.handled_bytes + pings, counters.received)
        unhandled = counters.received - self.handled_bytes
        too_large = unhandled > limits.websocket_message_bytes + _FRAMING_BYTES
        return EndReason.LARGE_MESSAGE if too_large else None

    def mark_handled(self, counters: TcpCounters, now: float) -> None:
        """Everything received so far belongs to requests that were handled or are now."""
        self.handled_bytes = counters.received
        self.incomplete_since = None
        self.idle_since = now

    def check_reading(
        self, counters: TcpCounters, now: float, limits: ServerSettings
    ) -> EndReason | None:
        """Check that the client reads: that it acknowledges something while bytes wait for it."""
        if not counters.waiting or counters.acked != self.acked:
            self.acked = counters.acked
            self.unread_since = now
            return None
        late = now - self.unread_since >= limits.write_timeout_s
        return EndReason.UNREAD_ANSWER if late else None
