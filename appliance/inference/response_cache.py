"""The response cache: keeps answers that their request determines, for the same request."""

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


class CacheStats(Struct, frozen=True):
    """`expired` entries were removed because of their age, `evictions` to free space."""

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
        """Hits per lookup, from 0 to 1; 0 before the first lookup."""
        lookups = self.hits + self.misses
        return self.hits / lookups if lookups else 0.0


class _Entry(Struct, frozen=True):
    content: bytes
    expires_at: float


class ResponseCache:
    """An LRU cache in memory. `clock` gives seconds.

    With `shared`, equal requests of different users share an entry.
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
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._bytes = 0
        self._hits = self._misses = self._evictions = self._expired = 0

    def accepts(self, request: CompletionRequest) -> bool:
        """Whether the request determines its answer: greedy sampling, or a seed."""
        sampling = request.sampling
        return self._max_entries > 0 and (sampling.temperature == 0 or sampling.seed is not None)

    def key(self, provider: str, fingerprint: str, request: CompletionRequest) -> bytes:
        """A hash of all that the answer depends on; `request.model` must be set.

        `fingerprint` changes with the model's file, and is "" if unknown.
        """
        if self._shared:
            request = replace(request, owner="")
        return hashlib.sha256(_encoder.encode((provider, fingerprint, request))).digest()

    def get(self, key: bytes) -> Sequence[CompletionEvent] | None:
        """The events of the answer, in order."""
        entry = self._entries.get(key)
        if entry is not None and entry.expires_at <= self._clock():
            self._remove(key)
            self._expired += 1
            entry = None
        if entry is None:
            self._misses += 1
            return None
        self._hits += 1
        self._entries.move_to_end(key)
        return _decoder.decode(entry.content)

    def put(self, key: bytes, events: Sequence[CompletionEvent]) -> None:
        """Keep a complete answer, unless it is larger than a quarter of the cache."""
        content = _encoder.encode(events)
        if len(content) > self._max_bytes // 4:
            return
        if key in self._entries:
            self._remove(key)
        self._entries[key] = _Entry(content, self._clock() + self._max_age_s)
        self._bytes += len(content)
        while len(self._entries) > self._max_entries or self._bytes > self._max_bytes:
            self._remove(next(iter(self._entries)))
            self._evictions += 1

    def stats(self) -> CacheStats:
        return CacheStats(
            entries=len(self._entries),
            max_entries=self._max_entries,
            bytes=self._bytes,
            max_bytes=self._max_bytes,
            hits=self._hits,
            misses=self._misses,
            evictions=self._evictions,
            expired=self._expired,
        )

    def _remove(self, key: bytes) -> None:
        self._bytes -= len(self._entries.pop(key).content)
