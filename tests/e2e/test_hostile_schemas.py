"""Schemas and grammars that cost much (F53, F61): only their own request pays for it."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.support.bystander import under_attack
from tests.support.server_process import ServerProcess

CHAT = "/v1/chat/completions"
DEADLINE_S = 120.0
STACKS = "root ::= x x x x x x x x x x\n" + "\n".join(
    f"{name} ::= {' '.join([inner] * 10)}"
    for name, inner in (("x", "y"), ("y", "z"), ("z", "w"))
) + '\nw ::= "a"?\n'  # fmt: skip


def chat(**more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "go"}], "max_tokens": 16} | more


def with_schema(schema: dict[str, Any]) -> dict[str, Any]:
    return chat(
        response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    )


def with_tools(count: int, schema: dict[str, Any]) -> dict[str, Any]:
    functions = [{"name": f"f{number}", "parameters": schema} for number in range(count)]
    tools = [{"type": "function", "function": each} for each in functions]
    return chat(tools=tools, tool_choice="required")


def of_pattern(pattern: str) -> dict[str, Any]:
    return with_schema({"type": "string", "pattern": pattern})


def doubling(depth: int) -> dict[str, Any]:
    """Each definition has two of the next."""
    steps = {
        f"d{at}": {"type": "object", "properties": {
            side: {"$ref": f"#/$defs/d{at + 1}"} for side in ("left", "right")
        }}
        for at in range(depth)
    }  # fmt: skip
    last = {f"d{depth}": {"type": "string"}}
    return with_schema({"$ref": "#/$defs/d0", "$defs": steps | last})


# Each stack of this grammar follows every token, and none of the likeliest tokens is allowed.
SLOW_MASK = chat(
    grammar="root ::= " + " | ".join(f'[\u0400-\u04ff]{{{at},}} "{at}"' for at in range(1, 300)),
    logit_bias={str(token): 100 for token in range(300, 1300)},
    max_tokens=4,
)
WIDE = {"type": "object", "properties": {f"p{at}": {"type": "string"} for at in range(9000)}}
CHOICES = {"anyOf": [{"type": "string", "pattern": f"^a{{1,{at + 1}}}$"} for at in range(300)]}
ATTACKS: dict[str, dict[str, Any]] = {
    "F53 pattern of options": of_pattern("^(a?){300}b$"),
    "F53 grammar of options": chat(grammar='root ::= ("a"?){200} "b"'),
    "F61 stacks": chat(grammar=STACKS),
    "pattern of nested repeats": of_pattern("^((a{0,50}){0,50}){0,50}$"),
    "pattern of a large repeat": of_pattern("^a{1000000}$"),
    "large minLength": with_schema({"type": "string", "minLength": 10_000_000}),
    "many properties": with_schema(WIDE),
    "many choices": with_schema(CHOICES),
    "definitions that double": doubling(40),
    "many values": with_schema({"enum": list(range(100_000))}),
    "many tools": with_tools(200, {"type": "object", "properties": {"a": CHOICES}}),
    "slow mask": SLOW_MASK,
    "left recursion": chat(grammar='root ::= root "a" | "a"'),
    "grammar of 1 MB": chat(grammar="root ::= " + " | ".join(['"word"'] * 100_000)),
}
ANSWERED = ("slow mask",)
QUICK = ("F53 pattern of options", "F61 stacks", "slow mask")


@pytest.mark.parametrize("name", QUICK)
def test_schema_when_it_costs_much_then_others_are_served(
    name: str, attacked: ServerProcess, bystander_key: str
) -> None:
    run_attack(name, attacked, bystander_key, timed=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(ATTACKS))
def test_schema_when_it_costs_much_then_others_have_their_share(
    name: str, attacked: ServerProcess, bystander_key: str
) -> None:
    run_attack(name, attacked, bystander_key, timed=True)


def run_attack(name: str, attacked: ServerProcess, bystander_key: str, *, timed: bool) -> None:
    def post(_: int) -> httpx.Response:
        with attacked.client() as client:
            return client.post(CHAT, json=ATTACKS[name], timeout=DEADLINE_S)

    with under_attack(attacked, bystander_key, timed=timed), ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(post, range(4)))
    # An answer whose format takes too long for one token is ended.
    allowed = {200} if name in ANSWERED else {200, 400, 413, 504}
    assert {answer.status_code for answer in answers} <= allowed, answers[0].text
