"""Hostile connections against a real server: each ends, and others are served meanwhile.

The limits are low, so that the tests take seconds. Every test has addresses of its own.
"""

import json
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.support.polling import until
from tests.support.raw_client import RawClient
from tests.support.server_process import ServerProcess, running_server

PER_ADDRESS, TOTAL = 8, 40
PROXY = "127.0.0.9"
LIMITS = {
    "CONNECTIONS": str(TOTAL),
    "CONNECTIONS_PER_ADDRESS": str(PER_ADDRESS),
    "HEADER_TIMEOUT_S": "0.5",
    "BODY_TIMEOUT_S": "0.5",
    "WRITE_TIMEOUT_S": "1",
    "WEBSOCKET_MESSAGE_BYTES": "1024",
    "TRUSTED_PROXIES": PROXY,
}
HOST = b"Host: server.test\r\n"
LENGTH, CHUNKED = b"Content-Length: 5000\r\n", b"Transfer-Encoding: chunked\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"
LARGE = b"GET /api/docs/static/swagger-ui-bundle.js HTTP/1.1\r\n" + HOST + b"\r\n"
WEBSOCKET = (
    b"GET /api/v2/connect HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)

Connect = Callable[[str], RawClient]


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with low limits on connections."""
    env = {f"MONKEY_CODER__SERVER__{name}": value for name, value in LIMITS.items()}
    env["MONKEY_CODER__MODELS__PRELOAD"] = "false"
    home = tmp_path_factory.mktemp("connections")
    with running_server(home / "data", None, **env) as started:
        started.make_key()
        yield started


@pytest.fixture
def connect(limited: ServerProcess) -> Iterator[Connect]:
    clients: list[RawClient] = []

    def connected(source: str) -> RawClient:
        clients.append(RawClient.to(limited.url, source))
        return clients[-1]

    yield connected
    for client in clients:
        client.close()


@pytest.fixture(autouse=True)
def _others_are_served(limited: ServerProcess) -> Iterator[None]:
    yield
    assert httpx.get(f"{limited.url}/healthz").status_code == 200


def post(path: str, body_headers: bytes, key: str = "") -> bytes:
    credential = f"Authorization: Bearer {key}\r\n".encode() if key else b""
    head = f"POST {path} HTTP/1.1\r\n".encode() + HOST + credential
    return head + b"Content-Type: application/json\r\n" + body_headers + b"\r\n"


def ended(client: RawClient, piece: bytes) -> bool:
    return not client.send(piece) or not client.is_open()


async def test_header_when_it_is_dribbled_then_the_connection_ends(connect: Connect) -> None:
    """F64"""
    hostile, silent = [connect("127.0.0.11") for _ in range(4)], connect("127.0.0.11")
    for each in hostile:
        each.send(b"GET /healthz HTTP/1.1\r\nX-Slow: ")
    for each in hostile:
        await until(lambda each=each: ended(each, b"x"))
    silent.send(HEALTH)
    assert (await silent.answer()).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/v1/chat/completions", ("type", "invalid_request_error")),
        ("/v1/messages", ("type", "timeout_error")),
        ("/api/v1/sandbox/run", ("code", "REQUEST_TIMEOUT")),
        ("/api/v1/auth/login", ("code", "REQUEST_TIMEOUT")),
    ],
)
@pytest.mark.parametrize("framing", [LENGTH, CHUNKED])
async def test_body_when_it_is_dribbled_then_the_answer_is_408_in_the_shape_of_the_dialect(
    limited: ServerProcess,
    connect: Connect,
    path: str,
    error: tuple[str, str],
    framing: bytes,
) -> None:
    """F64"""
    hostile = connect("127.0.0.12")
    hostile.send(post(path, framing, limited.key))
    # One byte per piece: a chunk, or as much of the announced length.
    piece = b"1\r\n \r\n" if framing == CHUNKED else b" "
    for _ in range(3):  # not on: what arrives after the answer can reset it
        hostile.send(piece)
    head, _, body = (await hostile.answer()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408")
    assert error in json.loads(body)["error"].items()
    await until(lambda: ended(hostile, piece))


@pytest.mark.parametrize("body", [b"5;\n {}  \r\n0\r\n\r\n", b"5\n {}  \r\n0\r\n\r\n", b"zz\r\n"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/v1/execute", "/api/v1/auth/login"])
async def test_body_when_a_chunk_is_malformed_then_the_answer_is_400_and_says_so(
    limited: ServerProcess, connect: Connect, path: str, body: bytes
) -> None:
    """A line of the chunked encoding that ends with a bare LF is malformed, too."""
    hostile = connect("127.0.0.21")
    hostile.send(post(path, CHUNKED, limited.key) + body)
    head, _, answer = (await hostile.answer()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert "chunked encoding of the body is malformed" in json.loads(answer)["error"]["message"]
    await until(lambda: ended(hostile, b""))


async def test_answer_when_it_is_not_read_then_the_connection_ends(connect: Connect) -> None:
    """F64"""
    hostile = connect("127.0.0.13")
    for _ in range(20):
        hostile.send(LARGE)
    await until(lambda: not hostile.send(b"G"))


async def test_websocket_when_an_unfinished_message_is_large_then_the_connection_ends(
    limited: ServerProcess, connect: Connect
) -> None:
    """F75"""
    hostile, other = connect("127.0.0.14"), connect("127.0.0.14")
    for each in (hostile, other):
        each.send(WEBSOCKET + f"Authorization: Bearer {limited.key}\r\n\r\n".encode())
        assert (await each.answer()).startswith(b"HTTP/1.1 101")
    hostile.send(b"\x81\xff" + (50 * 1024 * 1024).to_bytes(8, "big") + b"mask")
    await until(lambda: ended(hostile, b"x" * 1000))
    assert other.is_open()


async def test_address_when_it_has_too_many_connections_then_idle_ones_end(
    limited: ServerProcess, connect: Connect
) -> None:
    """F64"""
    busy = connect("127.0.0.15")
    busy.send(WEBSOCKET + f"Authorization: Bearer {limited.key}\r\n\r\n".encode())
    assert (await busy.answer()).startswith(b"HTTP/1.1 101")
    idle = [connect("127.0.0.15") for _ in range(3 * PER_ADDRESS)]
    other = connect("127.0.0.16")
    await until(lambda: sum(each.is_open() for each in idle) == PER_ADDRESS - 1)
    assert busy.is_open()
    assert other.is_open()
    assert idle[-1].is_open()  # those that are idle longest end first
    metrics = connect("127.0.0.16")
    metrics.send(b"GET /metrics HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
    counted = b""
    while piece := await metrics.answer():
        counted += piece
    assert b'monkey_coder_connections_ended_total{reason="address_limit"}' in counted
    await until(lambda: "reason=address_limit" in limited.log.read_text())
    assert "list it in server.trusted_proxies" in limited.log.read_text()


async def test_connections_when_they_are_too_many_in_total_then_others_are_served(
    connect: Connect,
) -> None:
    flood = [connect(f"127.0.1.{number}") for number in range(1, 2 * TOTAL)]
    late = connect("127.0.0.17")
    late.send(HEALTH)
    assert (await late.answer()).startswith(b"HTTP/1.1 200")
    await until(lambda: sum(each.is_open() for each in flood) <= TOTAL)


async def test_proxy_when_it_is_trusted_then_requests_count_for_the_address_it_forwards(
    limited: ServerProcess, connect: Connect
) -> None:
    credential = f"Authorization: Bearer {limited.key}\r\n".encode()
    forwarded = b"X-Forwarded-For: 203.0.113.7\r\n"
    held = [connect(PROXY) for _ in range(PER_ADDRESS)]
    for each in held:
        each.send(WEBSOCKET + credential + forwarded + b"\r\n")
        assert (await each.answer()).startswith(b"HTTP/1.1 101")
    get = b"GET /v1/models HTTP/1.1\r\n" + HOST + credential
    refused, other = connect(PROXY), connect(PROXY)
    refused.send(get + forwarded + b"\r\n")
    head, _, body = (await refused.answer()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 429")
    assert b"retry-after: 1" in head.lower()
    assert json.loads(body)["error"]["type"] == "rate_limit_error"
    other.send(get + b"X-Forwarded-For: 203.0.113.8\r\n\r\n")
    assert (await other.answer()).startswith(b"HTTP/1.1 200")
    assert all(each.is_open() for each in held)


@pytest.mark.parametrize("hosts", [b"", HOST + HOST, HOST + b"Host: other.test\r\n"])
@pytest.mark.parametrize("path", [b"/v1/models", b"/no/such/path"])
async def test_host_when_a_request_has_not_exactly_one_then_it_is_refused(
    connect: Connect, hosts: bytes, path: bytes
) -> None:
    """F75"""
    hostile = connect("127.0.0.18")
    hostile.send(b"GET " + path + b" HTTP/1.1\r\n" + hosts + b"\r\n")
    assert (await hostile.answer()).startswith(b"HTTP/1.1 400")


async def test_http2_when_it_is_asked_for_in_the_clear_then_it_is_not_spoken(
    connect: Connect,
) -> None:
    """F65"""
    prior, upgrade = connect("127.0.0.19"), connect("127.0.0.19")
    prior.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
    assert not (await prior.answer()).startswith(b"\x00\x00")
    assert (await prior.answer()) == b""
    settings = (
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    )
    upgrade.send(b"GET /healthz HTTP/1.1\r\n" + HOST + settings + b"\r\n")
    assert (await upgrade.answer()).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_body_when_a_route_without_a_key_gets_a_large_one_then_it_is_refused(
    connect: Connect, framing: str
) -> None:
    """F64"""
    content = b" " * 20_000
    hostile = connect("127.0.0.20")
    if framing == "chunked":
        head = post("/api/v1/auth/login", CHUNKED)
        content = b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content)
    else:
        head = post("/api/v1/auth/login", b"Content-Length: %d\r\n" % len(content))
    hostile.send(head + content)
    assert (await hostile.answer()).startswith(b"HTTP/1.1 413")
