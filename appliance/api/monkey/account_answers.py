"""Converts users, tokens and keys to answers."""

import time
from datetime import UTC, datetime

from msgspec import UNSET

from appliance.api.http.times import iso, iso_or_none
from appliance.api.monkey.account_schemas import (
    KeyAnswer,
    KeyBody,
    KeyStatsAnswer,
    StatusAnswer,
    TokenAnswer,
    UserAnswer,
)
from appliance.domain.users import ApiKey, KeyStats, Principal, TokenPair, User
from appliance.errors import InvalidInput

_DAY_S = 86_400


def user_answer(user: User) -> UserAnswer:
    return UserAnswer(
        id=user.public_id,
        email=user.email,
        username=user.username,
        name=user.name,
        role=user.role,
        roles=[user.role],
        credits=user.credits,
        subscription_tier=user.plan,
    )


def token_answer(tokens: TokenPair, now: float) -> TokenAnswer:
    return TokenAnswer(
        access_token=tokens.access_token,
        refresh_token=tokens.refresh_token,
        token_type="bearer",  # noqa: S106
        expires_at=iso(tokens.expires_at),
        expires_in=max(0, int(tokens.expires_at - now)),
        user=user_answer(tokens.user),
    )


def status_answer(principal: Principal) -> StatusAnswer:
    return StatusAnswer(
        authenticated=True,
        method="session" if principal.key_id is None else "api_key",
        user=user_answer(principal.user),
        permissions=sorted(principal.scopes),
        session_expires=iso_or_none(principal.expires_at),
    )


def key_answer(key: ApiKey, secret: str | None = None) -> KeyAnswer:
    """A key; `secret` only in the response that creates it."""
    return KeyAnswer(
        key_id=key.public_id,
        name=key.name,
        prefix=key.prefix,
        status=key.status,
        permissions=list(key.scopes),
        created_at=iso(key.created_at),
        expires_at=iso_or_none(key.expires_at),
        last_used=iso_or_none(key.last_used_at) if secret is None else UNSET,
        usage_count=key.use_count if secret is None else UNSET,
        key=secret if secret is not None else UNSET,
    )


def stats_answer(stats: KeyStats) -> KeyStatsAnswer:
    return KeyStatsAnswer(
        total_keys=stats.total,
        active_keys=stats.active,
        expired_keys=stats.expired,
        revoked_keys=stats.revoked,
        total_usage=stats.uses,
        last_used=iso_or_none(stats.last_used_at),
    )


def key_expiry(body: KeyBody) -> float | None:
    """When a new key expires, in epoch seconds; None for never. Raises InvalidInput."""
    if body.expires_at is None:
        return None if body.expires_days is None else time.time() + body.expires_days * _DAY_S
    try:
        at = datetime.fromisoformat(body.expires_at)
    except ValueError:
        raise InvalidInput.at(
            "expires_at", "must be an ISO 8601 time such as 2030-01-31T12:00:00Z"
        ) from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
