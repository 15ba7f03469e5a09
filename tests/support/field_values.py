"""Collects the values of every field of recorded answers, to find those that never change."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Literal, cast, get_args, get_origin

import httpx
from pydantic import BaseModel

# Objects whose names are data: their values are one field.
_MAPS = frozenset(
    {"models", "provider_breakdown", "problems", "waiting_for", "languages", "details",
     "top_logprobs[]"}
)  # fmt: skip
# What the client sent, or the model wrote.
_OPAQUE = frozenset({"schema", "parameters", "input", "metadata", "input_schema"})
# Streams of what another route answers as a whole, and the field of their events that holds it.
_STREAMS = {
    "POST /api/v1/execute/stream": ("POST /api/v1/execute", "data"),
    "GET /api/v1/tasks/{task_id}/events": ("GET /api/v1/tasks/{task_id}", "data"),
    "POST /api/v1/sandbox/run/stream": ("POST /api/v1/sandbox/run", "result"),
    "POST /v1/responses": ("POST /v1/responses", "response"),
    "POST /v1/messages": ("POST /v1/messages", "message"),
}
_DIALECTS = {
    "/api/v1": "Monkey Coder",
    "/api/v2": "Piston",
    "/v1/messages": "Anthropic",
    "/v1/": "OpenAI",
}


class FieldValues:
    """The values by place: the route, and the path of the field in its answers.

    Elements of lists and events of streams are folded. Errors have a place by their dialect,
    whichever route they come from.
    """

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], set[str]] = defaultdict(set)

    def add(self, route: str, body: Any) -> None:
        """Record an answer of a route."""
        for path, value in _walk(body, ""):
            self._values[route, path].add(value)

    def add_event(self, route: str, event: dict[str, Any]) -> None:
        """Record an event of a stream."""
        route, whole = _STREAMS.get(route, (route, ""))
        inner = event.get(whole)
        if isinstance(inner, dict):
            self.add(route, inner)
            event = {name: value for name, value in event.items() if name != whole}
        self.add(f"{route}, events", event)

    def add_response(self, route: str, response: httpx.Response) -> None:
        """Record what a route answered: JSON, or a stream of events."""
        kind = response.headers.get("content-type", "")
        if "event-stream" in kind:
            for line in response.text.split("\n"):
                if line.startswith("data: {"):
                    self.add_event(route, json.loads(line.removeprefix("data: ")))
        elif "json" in kind:
            is_error = response.is_error and not route.startswith("GET /health")
            self.add(_error_place(response) if is_error else route, response.json())

    def constants(self) -> Iterator[tuple[str, str, str]]:
        """Route, path and value (as JSON) of each field that always had the same value."""
        for (route, path), values in sorted(self._values.items()):
            if len(values) == 1 and not values & {_OBJECT, _LIST}:
                yield route, path, next(iter(values))


_OBJECT, _LIST = "an object", "a list"


def _error_place(response: httpx.Response) -> str:
    path = response.request.url.path
    names = (name for prefix, name in _DIALECTS.items() if path.startswith(prefix))
    place = "errors of " + next(names, "the server")
    v0 = "v0+json" in response.request.headers.get("accept", "")
    return f"{place}, version 0" if v0 and path.startswith("/api/v1") else place


def _walk(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """The values with their paths, such as "choices[].index"; containers are fields as well,
    since others may be null or empty in their place."""
    name = path.rpartition(".")[2]
    if isinstance(value, Mapping) and name not in _OPAQUE:
        yield path, _OBJECT
        for key, inner in cast("Mapping[str, Any]", value).items():
            yield from _walk(inner, f"{path}.{'*' if name in _MAPS else key}".lstrip("."))
    elif isinstance(value, list) and value:
        yield path, _LIST
        for each in cast("list[Any]", value):
            yield from _walk(each, f"{path}[]")
    else:
        yield path, json.dumps(value, sort_keys=True)


def discriminators(*models: Any) -> frozenset[tuple[str, str]]:
    """The pairs of field and value (as JSON) that official models, and those inside them, declare
    as a `Literal` of one value: by them a client knows an object from others."""
    pairs: set[tuple[str, str]] = set()
    seen: set[Any] = set()
    waiting: list[Any] = list(models)
    while waiting:
        kind = waiting.pop()
        if kind in seen:
            continue
        seen.add(kind)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            for name, field in kind.model_fields.items():
                choices = get_args(field.annotation)
                if get_origin(field.annotation) is Literal and len(choices) == 1:
                    pairs.add((name, json.dumps(choices[0])))
                waiting.append(field.annotation)
        else:
            waiting += [each for each in get_args(kind) if not isinstance(each, str | int)]
    return frozenset(pairs)
