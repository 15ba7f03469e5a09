"""Argon2id (RFC 9106) away from the event loop, a bounded number at a time."""

import asyncio
import base64
import secrets
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError

from appliance.errors import Unavailable

T = TypeVar("T")

# Each computation takes the hasher's memory (64 MiB by default) and several threads.
_WORKERS = 2
_WAITING = 128
_WAIT_S = 30.0


class Passwords:
    """Hashes and checks passwords. Raises Unavailable when too many are waiting."""

    def __init__(
        self,
        hasher: PasswordHasher | None = None,
        *,
        workers: int = _WORKERS,
        waiting: int = _WAITING,
    ) -> None:
        self._hasher = hasher or PasswordHasher()
        self._stand_in = _unmatchable(self._hasher)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="password")
        self._limit = workers + waiting
        self._pending = 0

    async def hash(self, password: str) -> str:
        """The encoded hash, with its parameters and salt."""
        return await self._away(lambda: self._hasher.hash(_bytes(password)))

    async def verify(self, password_hash: str | None, password: str) -> bool:
        """Whether the password is right.

        None (nobody to compare with) costs the same computation and is never right,
        so that the time of an answer does not tell which accounts exist.
        """
        expected = password_hash or self._stand_in
        return await self._away(lambda: self._matches(expected, _bytes(password)))

    def is_outdated(self, password_hash: str) -> bool:
        """Whether the hash was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(password_hash)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _matches(self, expected: str, password: bytes) -> bool:
        try:
            return self._hasher.verify(expected, password)
        except VerifyMismatchError:
            return False

    async def _away(self, work: Callable[[], T]) -> T:
        if self._pending >= self._limit:
            raise Unavailable("too many logins at once; try again in a moment", retry_after=2.0)
        self._pending += 1
        try:
            async with asyncio.timeout(_WAIT_S):
                return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except TimeoutError:
            raise Unavailable("the login took too long; try again", retry_after=2.0) from None
        finally:
            self._pending -= 1


def _bytes(password: str) -> bytes:
    # One password typed on two keyboards may reach us composed or decomposed.
    return unicodedata.normalize("NFC", password).encode()


def _unmatchable(hasher: PasswordHasher) -> str:
    """A hash of today's parameters that no known password has; random instead of computed."""
    salt, tag = (
        base64.b64encode(secrets.token_bytes(size)).decode().rstrip("=")
        for size in (hasher.salt_len, hasher.hash_len)
    )
    costs = f"m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}"
    return f"$argon2id$v=19${costs}${salt}${tag}"
