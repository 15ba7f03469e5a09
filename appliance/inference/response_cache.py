"""Answers that are determined by their request, kept for when it comes again."""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from appliance.domain.messages import CompletionEvent, CompletionRequest

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[CompletionEvent, ...])


class CacheFigures(Struct, frozen=True):
    """`expired` are entries that were given up for their age, `evictions` for room."""

    entries: int
    max_entries: int
    bytes: int
    max_bytes: int
    hits: int
    misses: int
    evictions: int
    expired: int

    @property
    def hit_rate(self) -> float:
        """Of all lookups so far, from 0 to 1; 0 before the first."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else 0.0


class _Kept(Struct, frozen=True):
    content: bytes
    until: float


class ResponseCache:
    """In memory; what was not asked for the longest goes first.

    With `shared`, users get each other's answers to equal requests. `clock` gives seconds.
    """

    def __init__(
        self,
        *,
        max_entries: int,
        max_bytes: int,
        max_age_s: float,
        shared: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._shared = shared
        self._clock = clock
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._bytes = 0
        self._hits = self._misses = self._evictions = self._expired = 0

    def takes(self, request: CompletionRequest) -> bool:
        """Whether the request determines its answer."""
        sampling = request.sampling
        return self._max_entries > 0 and (sampling.temperature == 0 or sampling.seed is not None)

    def key(self, provider: str, fingerprint: str, request: CompletionRequest) -> bytes:
        """Of everything that the answer depends on; `request.model` is set.

        `fingerprint` tells one state of the model from another, where the box knows it.
        """
        if self._shared:
            request = replace(request, owner="")
        return hashlib.sha256(_encoder.encode((provider, fingerprint, request))).digest()

    def get(self, key: bytes) -> Sequence[CompletionEvent] | None:
        """The events of an earlier answer, as they came."""
        kept = self._kept.get(key)
        if kept is not None and kept.until <= self._clock():
            self._drop(key)
            self._expired += 1
            kept = None
        if kept is None:
            self._misses += 1
            return None
        self._hits += 1
        self._kept.move_to_end(key)
        return _decoder.decode(kept.content)

    def put(self, key: bytes, events: Sequence[CompletionEvent]) -> None:
        """Keep a complete answer, unless it alone would take a quarter of the room."""
        content = _encoder.encode(events)
        if len(content) > self._max_bytes // 4:
            return
        if key in self._kept:
            self._drop(key)
        self._kept[key] = _Kept(content, self._clock() + self._max_age_s)
        self._bytes += len(content)
        while len(self._kept) > self._max_entries or self._bytes > self._max_bytes:
            self._drop(next(iter(self._kept)))
            self._evictions += 1

    def figures(self) -> CacheFigures:
        return CacheFigures(
            entries=len(self._kept),
            max_entries=self._max_entries,
            bytes=self._bytes,
            max_bytes=self._max_bytes,
            hits=self._hits,
            misses=self._misses,
            evictions=self._evictions,
            expired=self._expired,
        )

    def _drop(self, key: bytes) -> None:
        self._bytes -= len(self._kept.pop(key).content)
