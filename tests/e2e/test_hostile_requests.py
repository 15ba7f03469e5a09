"""Chats and counts that cost much (F60, F62, F63): refused before they cost others anything."""

import json
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.support.bystander import under_attack
from tests.support.server_process import ServerProcess

CHAT, COUNT, LOGIN = "/v1/chat/completions", "/v1/messages/count_tokens", "/api/v1/auth/login"
DEADLINE_S = 60.0
Body = bytes | dict[str, Any]


def chat(content: Any = "hi", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 4} | more


def count(text: str) -> dict[str, Any]:
    return {"model": "model", "messages": [{"role": "user", "content": text}]}


def messages(number: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "a"}] * number, "max_tokens": 4}


def with_number(number: int) -> Iterator[Body]:
    """A number wherever a chat may have one."""
    schema = {"type": "object", "properties": {"a": {"type": "integer", "maximum": number}}}
    yield chat(max_tokens=number)
    yield chat(seed=number)
    yield chat(logit_bias={str(number): 1})
    yield chat(temperature=number)
    yield chat(tools=[{"type": "function", "function": {"name": "f", "parameters": schema}}])
    yield chat(
        seed=1,
        response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}},
    )


NESTED = b'{"messages": [{"role": "user", "content": ' + b'[{"a":' * 1_000_000
EMPTY_LISTS = b'{"x": [' + b"[]," * 5_000_000 + b"[]]}"
ATTACKS: dict[str, tuple[str, list[Body], set[int]]] = {
    "F60 numbers of 2^64": (
        CHAT,
        [body for number in (2**64, 2**63, 10**4000) for body in with_number(number)],
        {400},
    ),
    "F62 text of 14 MB": (CHAT, [chat("word " * 2_800_000)] * 4, {413}),
    "F62 text of 1 MB": (CHAT, [chat("word " * 200_000)] * 8, {400}),
    "F62 one word of 1 MB": (CHAT, [chat("a" * 1_000_000)] * 8, {400}),
    "F62 60,000 messages": (CHAT, [messages(60_000)] * 4, {413}),
    "F62 10,000 messages": (CHAT, [messages(10_000)] * 4, {400}),
    "F62 500,000 messages": (CHAT, [messages(500_000)], {413}),
    "F62 counts of 14 MB": (COUNT, [count("word " * 2_800_000)] * 4, {413}),
    "F62 counts of 1 MB": (COUNT, [count("word " * 200_000)] * 8, {200, 400}),
    "F63 lists in a login": (LOGIN, [EMPTY_LISTS] * 8, {413}),
    "F63 lists in a chat": (CHAT, [EMPTY_LISTS] * 4, {413}),
    "deep nesting": (CHAT, [NESTED] * 4, {400}),
    "more than the largest body": (CHAT, [chat("a" * 17_000_000)] * 8, {413}),
}
QUICK = ("F62 one word of 1 MB", "F63 lists in a login")


def encoded(bodies: Sequence[Body]) -> list[bytes]:
    """Equal bodies are made once."""
    made = {id(body): body if isinstance(body, bytes) else json.dumps(body).encode()
            for body in bodies}  # fmt: skip
    return [made[id(body)] for body in bodies]


@pytest.mark.parametrize("name", QUICK)
def test_requests_when_they_cost_much_then_refused_and_others_are_served(
    name: str, attacked: ServerProcess, bystander_key: str
) -> None:
    run_attack(name, attacked, bystander_key, timed=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(ATTACKS))
def test_requests_when_they_cost_much_then_others_have_their_share(
    name: str, attacked: ServerProcess, bystander_key: str
) -> None:
    run_attack(name, attacked, bystander_key, timed=True)


def run_attack(name: str, attacked: ServerProcess, bystander_key: str, *, timed: bool) -> None:
    path, bodies, statuses = ATTACKS[name]
    sent = encoded(bodies)
    headers = {"Content-Type": "application/json"}

    def post(body: bytes) -> httpx.Response:
        with attacked.client() as client:
            return client.post(path, content=body, headers=headers, timeout=DEADLINE_S)

    with (
        under_attack(attacked, bystander_key, timed=timed),
        ThreadPoolExecutor(len(sent)) as pool,
    ):
        answers = list(pool.map(post, sent))
    assert {answer.status_code for answer in answers} <= statuses, [a.text[:200] for a in answers]


def test_counts_when_their_clients_have_left_then_others_are_served(
    attacked: ServerProcess, bystander_key: str
) -> None:
    """F62: twenty clients send a count of 1 MB and leave without waiting for it."""
    body = json.dumps(count("word " * 200_000)).encode()
    host, port = attacked.url.removeprefix("http://").split(":")
    head = (
        f"POST {COUNT} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {attacked.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with under_attack(attacked, bystander_key):
        for _ in range(20):
            with socket.create_connection((host, int(port)), timeout=DEADLINE_S) as connection:
                connection.sendall(head.encode() + body)
