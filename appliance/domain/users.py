"""Accounts: users, API keys, scopes, tokens and the principal of a request."""

from enum import StrEnum

from msgspec import Struct

DEFAULT_PLAN = "free"
SIGNUP_CREDITS = 100.0
UNLIMITED_CREDITS = 2147483647.0
"""Where a client expects a number."""


class Role(StrEnum):
    ADMIN = "admin"
    DEVELOPER = "developer"
    VIEWER = "viewer"
    API_USER = "api_user"


class Scope(StrEnum):
    """What a key may do. `ALL` is everything that a logged-in user of that role may do.

    `TASKS_WRITE` includes `CHAT`. `ADMIN` permits what only the role admin may do: other users'
    tasks and keys, metrics.
    """

    ALL = "*"
    TASKS_READ = "tasks:read"
    TASKS_WRITE = "tasks:write"
    CHAT = "chat"
    KEYS = "keys"
    SANDBOX = "sandbox"
    ADMIN = "admin"


class User(Struct, frozen=True):
    """`public_id` is what clients see ("user_…"); times are epoch seconds.

    `plan` is the name of a plan, whose limits the settings define in [plans.NAME].
    """

    id: int
    public_id: str
    username: str
    email: str
    name: str
    role: Role
    disabled: bool
    created_at: float
    plan: str = DEFAULT_PLAN

    @property
    def credits(self) -> float:
        """The credits left: those of the signup, of which no request takes any, or no limit."""
        return SIGNUP_CREDITS if self.plan == DEFAULT_PLAN else UNLIMITED_CREDITS


class KeyStatus(StrEnum):
    ACTIVE = "active"
    INACTIVE = "inactive"
    EXPIRED = "expired"
    REVOKED = "revoked"


class ApiKey(Struct, frozen=True):
    """An API key without its secret. `prefix` is the visible start of the key."""

    id: int
    public_id: str
    user_id: int
    name: str
    prefix: str
    scopes: tuple[str, ...]
    status: KeyStatus
    created_at: float
    expires_at: float | None
    last_used_at: float | None
    use_count: int


class KeyStats(Struct, frozen=True):
    """Number of a user's keys by status, and their use."""

    total: int
    active: int
    inactive: int
    expired: int
    revoked: int
    uses: int
    last_used_at: float | None


class Principal(Struct, frozen=True):
    """The user of a request, the scopes, and their expiry (epoch seconds; None: no expiry).

    `key_id` and `key_prefix` are of the API key that was used, `session_id` of the session.
    """

    user: User
    scopes: frozenset[str]
    key_id: int | None = None
    key_prefix: str | None = None
    session_id: str | None = None
    expires_at: float | None = None

    def may(self, scope: Scope) -> bool:
        if scope in self.scopes or Scope.ALL in self.scopes:
            return True
        return scope is Scope.CHAT and Scope.TASKS_WRITE in self.scopes


class TokenPair(Struct, frozen=True):
    """Times are epoch seconds."""

    access_token: str
    refresh_token: str
    expires_at: float
    user: User
