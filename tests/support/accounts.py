"""The accounts package on a real database, with cheap password hashes and a manual clock."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from argon2 import PasswordHasher

from appliance.config.settings import AuthSettings
from appliance.domain.users import Principal, Role, User
from appliance.services.accounts.passwords import Passwords
from appliance.services.accounts.service import build_accounts
from appliance.store.sqlite.database import Database

SECRET = b"a secret for tests, 32 bytes or more"
PASSWORD = "correct horse"
ADDRESS = "192.0.2.7"


class Clock:
    """Epoch seconds that advance only by `advance`."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class CountingPasswords(Passwords):
    """Real argon2id at the lowest cost; records every hash it was asked to verify."""

    def __init__(self) -> None:
        super().__init__(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
        self.verified: list[str | None] = []

    async def verify(self, password_hash: str | None, password: str) -> bool:
        self.verified.append(password_hash)
        return await super().verify(password_hash, password)


class AccountsHarness:
    """The parts under test, with their database, clock and password hasher."""

    def __init__(self, db: Database, settings: AuthSettings) -> None:
        self.db = db
        self.clock = Clock()
        self.passwords = CountingPasswords()
        self.accounts = build_accounts(
            db, settings, SECRET, clock=self.clock, passwords=self.passwords
        )

    async def add(self, username: str, role: Role = Role.DEVELOPER) -> User:
        return await self.accounts.users.add(
            username=username,
            email=f"{username}@example.com",
            name=username.title(),
            role=role,
            password=PASSWORD,
        )

    async def log_in(self, username: str) -> Principal:
        tokens = await self.accounts.login.log_in(username, PASSWORD, ADDRESS)
        return await self.accounts.authenticate(tokens.access_token)

    async def create_key(self, username: str, *scopes: str, expires_at: float | None = None) -> str:
        """The secret of a new key."""
        principal = await self.accounts.users.get_principal(username)
        _, secret = await self.accounts.keys.create(principal, "test", scopes, expires_at)
        return secret

    async def scalar(self, sql: str) -> object:
        async with self.db.read() as connection:
            return await connection.scalar(sql)


@asynccontextmanager
async def open_accounts_harness(
    folder: Path, settings: AuthSettings | None = None
) -> AsyncGenerator[AccountsHarness, None]:
    db = await Database.open(folder / "accounts.db")
    try:
        harness = AccountsHarness(db, settings or AuthSettings())
        yield harness
        await harness.accounts.close()
    finally:
        await db.close()
