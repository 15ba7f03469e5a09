"""When a connection is ended, by the kernel's counters."""

from appliance.config.settings import ServerSettings
from appliance.server.connection import Connection, EndReason
from appliance.server.open_sockets import TcpCounters

SETTINGS = ServerSettings(
    header_timeout_s=10.0, write_timeout_s=60.0, websocket_message_bytes=100_000
)
UNREAD = TcpCounters(acked=10, received=0, waiting=True)


def connection() -> Connection:
    return Connection(5, b"cookie", ("192.0.2.1", "1234"), "192.0.2.1", idle_since=0.0)


def received(size: int) -> TcpCounters:
    return TcpCounters(acked=0, received=size, waiting=False)


def test_connection_when_it_sends_nothing_then_no_header_deadline_runs() -> None:
    silent = connection()
    assert silent.check_idle(received(0), 1000.0, SETTINGS) is None


def test_header_when_it_trickles_in_then_its_deadline_starts_with_its_first_byte() -> None:
    slow = connection()
    found = [slow.check_idle(received(size), 100.0 + size, SETTINGS) for size in range(1, 12)]
    assert found == [None] * 10 + [EndReason.SLOW_HEADER]


def test_header_when_a_request_was_handled_then_its_bytes_start_no_deadline() -> None:
    kept = connection()
    kept.mark_handled(received(500), 5.0)
    assert kept.check_idle(received(500), 90.0, SETTINGS) is None
    assert kept.check_idle(received(501), 91.0, SETTINGS) is None
    assert kept.check_idle(received(501), 101.0, SETTINGS) is EndReason.SLOW_HEADER


def test_answer_when_nothing_of_it_is_acknowledged_then_the_connection_ends() -> None:
    reader = connection()
    assert reader.check_reading(UNREAD, 0.0, SETTINGS) is None
    assert reader.check_reading(UNREAD, 59.0, SETTINGS) is None
    assert reader.check_reading(UNREAD, 60.0, SETTINGS) is EndReason.UNREAD_ANSWER


def test_answer_when_it_is_read_slowly_then_the_connection_stays() -> None:
    reader = connection()
    found = [
        reader.check_reading(
            TcpCounters(acked=10 + second, received=0, waiting=True), second * 50.0, SETTINGS
        )
        for second in range(10)
    ]
    assert found == [None] * 10


def test_stream_when_no_bytes_wait_for_the_client_then_its_silence_is_no_fault() -> None:
    stream = connection()
    found = [
        stream.check_reading(TcpCounters(acked=10, received=0, waiting=False), at * 50.0, SETTINGS)
        for at in range(10)
    ]
    assert found == [None] * 10


def test_websocket_when_an_unfinished_message_is_too_large_then_it_ends() -> None:
    socket = connection()
    socket.mark_handled(received(1000), 0.0)
    assert socket.check_websocket(received(100_000), 1.0, SETTINGS) is None
    assert socket.check_websocket(received(300_000), 1.0, SETTINGS) is EndReason.LARGE_MESSAGE


def test_websocket_when_it_only_pings_for_days_then_it_stays() -> None:
    socket = connection()
    found = [socket.check_websocket(received(20 * at), 1.0, SETTINGS) for at in range(1, 100_000)]
    assert set(found) == {None}
