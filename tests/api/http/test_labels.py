"""Labels in the header X-Labels."""

from typing import Any

import pytest
from litestar import Request

from appliance.api.http.labels import read_labels
from appliance.errors import InvalidInput


def request(*values: bytes) -> Request[Any, Any, Any]:
    headers = [(b"x-labels", value) for value in values]
    scope: Any = {"type": "http", "headers": headers}
    made: Request[Any, Any, Any] = Request(scope)
    return made


@pytest.mark.parametrize(
    ("headers", "in_metadata", "found"),
    [
        ((), "", ()),
        ((b" a ,, b,a",), "", ("a", "b")),
        ((b"a", b"secret"), "meta", ("a", "secret", "meta")),
        (("größe".encode(),), "", ("größe",)),
    ],
)
def test_labels_when_sent_then_each_once(
    headers: tuple[bytes, ...], in_metadata: str, found: tuple[str, ...]
) -> None:
    assert read_labels(request(*headers), in_metadata) == found


@pytest.mark.parametrize(
    "value", [b"\xff", b"x" * 201, b",".join(str(n).encode() for n in range(65))]
)
def test_labels_when_out_of_bounds_then_refused(value: bytes) -> None:
    with pytest.raises(InvalidInput, match="X-Labels"):
        read_labels(request(value))
