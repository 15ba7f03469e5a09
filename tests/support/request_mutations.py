"""Mutations of requests, the same for the same seed.

A JSON value is changed in its tree (types, numbers, texts, nesting, duplicate and unknown keys),
then as text (cut off, not UTF-8, several documents), then the request around it (method, path,
query, headers).
"""

import base64
import copy
import json
import random
import shlex
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from tests.support.valid_requests import ValidRequest


class JsonText(str):
    """JSON text to be written as it is."""

    __slots__ = ()


@dataclass(frozen=True)
class DuplicateKeys:
    """An object with one of its keys written twice."""

    items: tuple[tuple[str, Any], ...]


@dataclass
class WireRequest:
    """A request as it is sent."""

    method: str
    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict[str, str])
    works: bool = False

    def reproduction(self, url: str) -> str:
        """A shell command that sends it; $KEY is an API key."""
        words = ["curl", "-sS", "-i", "--path-as-is", "-X", self.method, url + self.path]
        for name, value in self.headers.items():
            words += ["-H", f"{name}: {value}"]
        text = base64.b64encode(zlib.compress(self.body)).decode()
        unpack = "import base64,sys,zlib;sys.stdout.buffer.write(zlib.decompress(base64.b64decode("
        source = f"python3 -c {shlex.quote(f'{unpack}{text!r})))')}"
        sent = f"{source} | {shlex.join(words)} --data-binary @-" if self.body else ""
        return (sent or shlex.join(words)) + ' -H "Authorization: Bearer $KEY"'


def _nested(opening: str, closing: str, depth: int) -> JsonText:
    return JsonText(opening * depth + "1" + closing * depth)


_VALUES: Final[tuple[Any, ...]] = (  # pyright: ignore[reportUnknownVariableType]
    None, True, False, 0, 1, -1, 2, 0.5, -0.0, 1e-320, 1e308,
    2**31 - 1, 2**31, 2**53, 2**63 - 1, 2**63, -(2**63) - 1, 2**64 - 1, 2**64, -(2**64), 10**30,
    JsonText("1" * 4000), JsonText("-" + "9" * 5000), JsonText("1e999"), JsonText("1E400"),
    JsonText("NaN"), JsonText("-Infinity"), JsonText("0x10"), JsonText("01"), JsonText("1."),
    "", " ", "\n", "\x00", "\x7f", "a", "1", "null", "true", "-1", "[]", "{}",
    "\ud800", "a\udfff", "\ufeff", "\u2028", "é" * 50, "\U0001f412" * 20, "\u0301" * 200,
    "a" * 300, "a" * 70_000, " " * 5000, "\n" * 5000, "()" * 3000, "(" * 3000,
    "../../etc/passwd", "/etc/passwd", "a/../../b", "C:\\a", "-rf", "%s%n", "$(id)", "`id`",
    "{{ 7 * 7 }}", "{% for x in range(10**9) %}x{% endfor %}", "<|im_start|>system\n", "</s>",
    "' OR 1=1 --", "http://[", "data:image/png;base64,AAAA", "file:///etc/passwd", "not base64!",
    "^(a?){300}b$", "(a+)+$", "[", "a{1000000000}", "\\", "(?<=a)b", "root ::= root", "::=",
    "text", "function", "json_schema", "object", "auto", "python", "system", "tool", "$ref",
    [], {}, [[]], [None], [{}], [0, "a", None, {}], [1] * 2000, ["a"] * 2000, [[]] * 500,
    {"": ""}, {"a": {"a": {"a": {}}}}, {"type": None}, {"type": "text"}, {"$ref": "#"},
    {"$ref": "#/properties/city"}, {"$ref": "http://example.com/"}, {"allOf": [{"$ref": "#"}]},
    {"type": "integer", "minimum": 2**64}, {"type": "string", "minLength": 10**9},
    {"type": "array", "minItems": 10**6}, {"enum": []}, {"const": "\ud800"}, {"pattern": "("},
    {str(number): number for number in range(1000)},
    _nested("[", "]", 100), _nested("[", "]", 3000), _nested('{"a":', "}", 100),
    _nested('{"properties":{"a":', "}}", 60), _nested('{"a":', "}", 3000),
)  # fmt: skip
_KEYS = ("", "a", "type", "$ref", "__proto__", "\x00", "a" * 5000, "model", "stream", "\ud800")
_METHODS = ("GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "POST", "QUERY", "a")
_TYPES = (
    "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data",
    "multipart/form-data; boundary=x", "application/json; charset=utf-16", "application/msgpack",
    "application/json;" * 50, "json", "application/vnd.api+json", ";;;=", "text/event-stream",
)  # fmt: skip
_HEADERS = (
    ("Authorization", "Bearer"), ("Authorization", "Bearer \xff"), ("Authorization", "Basic eDp5"),
    ("Authorization", "Bearer eyJhbGciOiJub25lIn0.e30."), ("Authorization", "Bearer " + "a" * 4000),
    ("X-API-Key", "mk-none"), ("X-API-Key", ""), ("Origin", "http://["), ("Origin", "null"),
    ("X-Forwarded-For", "1.2.3.4, ::1, x"), ("X-Forwarded-Proto", "x"), ("X-Request-ID", "a\tb"),
    ("X-Request-ID", "a" * 5000), ("Last-Event-ID", "-1"), ("Last-Event-ID", "9" * 400),
    ("Last-Event-ID", "\xe9"), ("Accept", "application/xml"), ("Accept", "\xff,;q=x"),
    ("Accept-Encoding", "gzip;q=x"), ("Content-Encoding", "gzip"), ("Content-Encoding", "br"),
    ("X-Labels", ","), ("X-Labels", "a" * 3000), ("X-Labels", "\xff"), ("Cookie", "a=;b;=c;\xff"),
    ("Range", "bytes=5-1"), ("If-None-Match", "\xff"), ("anthropic-version", "0"),
    ("anthropic-beta", "a" * 2000), ("OpenAI-Organization", "\xff"), ("Upgrade", "websocket"),
    ("Access-Control-Request-Method", "X"), ("X-HTTP-Method-Override", "DELETE"),
)  # fmt: skip
_PATHS = ("%00", "%ff", "%", "/", "//", "/..", "%2e%2e%2f", "é", "a" * 3000, ";a=b", "?", "#", " ")
_QUERIES = (
    "limit=99999999999999999999", "limit=-1", "limit=x", "cursor=%ff", "cursor=MQ==", "after=-1",
    "after=18446744073709551616", "status=x", "provider=%00", "wait=x", "a=" + "b" * 3000, "&&=&",
    "limit=5&limit=6", "%", "wait=true",
)  # fmt: skip


class Mutator:
    """Mutates valid requests; `others` lend them parts of theirs."""

    def __init__(self, seed: str, others: tuple[ValidRequest, ...]) -> None:
        self._random = random.Random(seed)
        self._parts = [part for other in others for _, part in _nodes([other.body])]

    def mutations(self, requests: tuple[ValidRequest, ...], count: int) -> Iterator[WireRequest]:
        """`count` mutations, each of one of `requests`."""
        for _ in range(count):
            yield self.mutate(self._random.choice(requests))

    def mutate(self, request: ValidRequest) -> WireRequest:
        """A request that differs from a valid one in one to four places."""
        body = [copy.deepcopy(request.body)]
        sent = WireRequest(request.method, request.path, b"", works=request.works)
        if request.body is not None:
            for _ in range(self._random.choice((0, 1, 1, 1, 2, 3))):
                self._mutate_tree(body)
            sent.headers["Content-Type"] = "application/json"
            sent.body = to_json(body[0]).encode(errors="surrogatepass")
            if self._random.random() < 0.15:
                sent.body = self._mutate_text(sent.body)
        if request.body is None or self._random.random() < 0.1:
            self._mutate_envelope(sent)
        return sent

    def _mutate_tree(self, body: list[Any]) -> None:
        """Change one node of the tree; `body` holds its root."""
        spots = list(_spots(body))
        parent, key = self._random.choice(spots)
        match self._random.randrange(10):
            case 0:
                parent[key] = copy.deepcopy(self._random.choice(self._parts))
            case 1 if isinstance(parent, dict):
                del parent[key]
            case 2 if isinstance(parent, dict):
                fields: dict[str, Any] = parent  # pyright: ignore[reportUnknownVariableType]
                fields[self._random.choice(_KEYS)] = fields.pop(key)
            case 3 if isinstance(parent[key], dict) and parent[key]:
                held: dict[str, Any] = parent[key]
                name, value = self._random.choice(list(held)), self._random.choice(_VALUES)
                parent[key] = DuplicateKeys((*held.items(), (name, copy.deepcopy(value))))
            case 4 if isinstance(parent[key], list) and parent[key]:
                parent[key] = parent[key] * self._random.choice((2, 50, 1000))
            case 5 if isinstance(parent[key], dict):
                parent[key][self._random.choice(_KEYS)] = copy.deepcopy(
                    self._random.choice(_VALUES)
                )
            case 6:
                parent[key] = [parent[key]]
            case 7 if isinstance(parent[key], str):
                parent[key] = self._mutate_string(parent[key])
            case _:
                parent[key] = copy.deepcopy(self._random.choice(_VALUES))

    def _mutate_string(self, text: str) -> str:
        at = self._random.randrange(len(text) + 1)
        inserted = self._random.choice([each for each in _VALUES if type(each) is str])
        return self._random.choice((text[:at] + inserted + text[at:], text[:at], text * 300))

    def _mutate_text(self, text: bytes) -> bytes:
        at = self._random.randrange(len(text) + 1)
        flipped = bytes([self._random.randrange(256)])
        changes: tuple[Callable[[], bytes], ...] = (
            lambda: text[:at],
            lambda: text[at:],
            lambda: text[:at] + flipped + text[at + 1 :],
            lambda: text[:at] + flipped * 3 + text[at:],
            lambda: b"\xef\xbb\xbf" + text,
            lambda: text + text,
            lambda: text + b"\x00",
            lambda: b" " * 100_000 + text,
            lambda: text.decode(errors="replace").encode("utf-16"),
            lambda: b"",
            lambda: b"null",
            lambda: b"[" * 100_000,
            lambda: b'{"a":' * 100_000,
            lambda: b"[" + b"[]," * 60_000 + b"[]]",
            lambda: zlib.compress(text),
        )
        return self._random.choice(changes)()

    def _mutate_envelope(self, sent: WireRequest) -> None:
        match self._random.randrange(5):
            case 0:
                sent.method = self._random.choice(_METHODS)
            case 1:
                sent.headers["Content-Type"] = self._random.choice(_TYPES)
            case 2:
                path, _, query = sent.path.partition("?")
                at = self._random.randrange(1, len(path) + 1)
                path = path[:at] + self._random.choice(_PATHS) + path[at:]
                sent.path = f"{path}?{query}" if query else path
            case 3:
                path = sent.path.partition("?")[0]
                sent.path = f"{path}?{self._random.choice(_QUERIES)}"
            case _:
                name, value = self._random.choice(_HEADERS)
                sent.headers[name] = value


def to_json(value: Any) -> str:
    """JSON text in which strings may hold lone surrogates, and JsonText anything."""
    if isinstance(value, JsonText):
        return str(value)
    if isinstance(value, DuplicateKeys):
        return _join_object(value.items)
    if isinstance(value, dict):
        return _join_object(tuple(value.items()))  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]
    if isinstance(value, list):
        return f"[{','.join(to_json(each) for each in value)}]"  # pyright: ignore[reportUnknownVariableType]
    return json.dumps(value)


def _join_object(items: tuple[tuple[str, Any], ...]) -> str:
    return "{" + ",".join(f"{json.dumps(name)}:{to_json(value)}" for name, value in items) + "}"


def _spots(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a tree, as its container and the key or index in it."""
    if isinstance(value, dict):
        keys: list[Any] = list(value)  # pyright: ignore[reportUnknownArgumentType]
    elif isinstance(value, list):
        keys = list(range(len(value)))  # pyright: ignore[reportUnknownArgumentType]
    else:
        return
    for key in keys:
        yield value, key
        yield from _spots(value[key])


def _nodes(value: Any) -> Iterator[tuple[Any, Any]]:
    for parent, key in _spots(value):
        yield key, parent[key]
