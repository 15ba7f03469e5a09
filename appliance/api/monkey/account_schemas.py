"""Request and response bodies of logins, users and API keys."""

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from appliance.api.monkey.schemas import Text


class LoginBody(Struct):
    """Either of `email` and `username` is required; each can hold the other."""

    password: Text
    email: Text | None = None
    username: Text | None = None


class RefreshBody(Struct):
    refresh_token: str | None = None


class KeyBody(Struct):
    """`permissions` are scopes; `expires_days` counts from now, `expires_at` is ISO 8601."""

    name: Annotated[str, Meta(min_length=1, max_length=100)] = "API key"
    permissions: list[str] | None = None
    scopes: list[str] | None = None
    expires_days: Annotated[float, Meta(gt=0, le=36_500)] | None = None
    expires_at: str | None = None


class UserAnswer(Struct):
    """`subscription_tier` is the user's plan. `credits` is 2147483647 without a limit; requests of
    this API take none."""

    id: str
    email: str
    username: str
    name: str
    role: str
    roles: list[str]
    credits: float
    subscription_tier: str


class TokenAnswer(Struct):
    access_token: str
    refresh_token: str
    token_type: str
    expires_at: str
    expires_in: int
    user: UserAnswer


class StatusAnswer(Struct):
    authenticated: bool
    method: str
    user: UserAnswer
    permissions: list[str]
    session_expires: str | None


class MessageAnswer(Struct):
    message: str


class KeyAnswer(Struct):
    """`key` is the secret; only the response that creates the key has it, and none of the uses."""

    key_id: str
    name: str
    prefix: str
    status: str
    permissions: list[str]
    created_at: str
    expires_at: str | None
    last_used: str | UnsetType | None = UNSET
    usage_count: int | UnsetType = UNSET
    key: str | UnsetType = UNSET


class KeyStatsAnswer(Struct):
    """Statistics of the caller's keys."""

    total_keys: int
    active_keys: int
    expired_keys: int
    revoked_keys: int
    total_usage: int
    last_used: str | None
