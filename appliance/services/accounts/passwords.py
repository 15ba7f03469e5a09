"""Password hashing with Argon2id (RFC 9106), in threads, with a bounded queue."""

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

# Each computation uses the hasher's memory (64 MiB by default) and several threads.
_WORKERS = 2
_QUEUE_LIMIT = 128
_TIMEOUT_S = 30.0


class Passwords:
    """Hashes and verifies passwords.

    At most `workers` computations run and `queue_limit` wait; more raise Unavailable.
    """

    def __init__(
        self,
        hasher: PasswordHasher | None = None,
        *,
        workers: int = _WORKERS,
        queue_limit: int = _QUEUE_LIMIT,
    ) -> None:
        self._hasher = hasher or PasswordHasher()
        self._dummy_hash = _random_hash(self._hasher)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="password")
        self._limit = workers + queue_limit
        self._pending = 0

    async def hash(self, password: str) -> str:
        """The hash in its encoded form, including parameters and salt."""
        return await self._run_in_thread(lambda: self._hasher.hash(_encode(password)))

    async def verify(self, password_hash: str | None, password: str) -> bool:
        """Whether the password matches the hash.

        With None (unknown user) the same computation runs against a dummy hash and the
        result is False, so that response times do not reveal which accounts exist.
        """
        expected = password_hash or self._dummy_hash
        return await self._run_in_thread(lambda: self._matches(expected, _encode(password)))

    def is_outdated(self, password_hash: str) -> bool:
        """Whether the hash has other parameters than the current ones."""
        return self._hasher.check_needs_rehash(password_hash)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _matches(self, expected: str, password: bytes) -> bool:
        try:
            return self._hasher.verify(expected, password)
        except VerifyMismatchError:
            return False

    async def _run_in_thread(self, work: Callable[[], T]) -> T:
        if self._pending >= self._limit:
            raise Unavailable("too many logins at once; try again in a moment", retry_after=2.0)
        self._pending += 1
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except TimeoutError:
            raise Unavailable("the login took too long; try again", retry_after=2.0) from None
        finally:
            self._pending -= 1


def _encode(password: str) -> bytes:
    # Keyboards differ in whether they send accented letters composed or decomposed.
    return unicodedata.normalize("NFC", password).encode()


def _random_hash(hasher: PasswordHasher) -> str:
    """A random value in the form of a hash with the current parameters; no password matches it."""
    salt, tag = (
        base64.b64encode(secrets.token_bytes(size)).decode().rstrip("=")
        for size in (hasher.salt_len, hasher.hash_len)
    )
    costs = f"m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}"
    return f"$argon2id$v=19${costs}${salt}${tag}"
