"""Logs what matters for security: logins, credentials, accounts, connections, settings."""

from enum import StrEnum

import structlog

log = structlog.get_logger()


class SecurityEvent(StrEnum):
    LOGIN_SUCCEEDED = "login_succeeded"
    LOGIN_FAILED = "login_failed"
    LOGIN_THROTTLED = "login_throttled"
    SESSION_REVOKED = "session_revoked"
    KEY_CREATED = "key_created"
    KEY_REVOKED = "key_revoked"
    CREDENTIAL_REJECTED = "credential_rejected"
    USER_CREATED = "user_created"
    USER_DISABLED = "user_disabled"
    USER_ENABLED = "user_enabled"
    PASSWORD_CHANGED = "password_changed"  # noqa: S105
    PLAN_CHANGED = "plan_changed"
    CONNECTIONS_ENDED = "connections_ended"
    SETTINGS_LOADED = "settings_loaded"


_WARNINGS = frozenset(
    {
        SecurityEvent.LOGIN_FAILED,
        SecurityEvent.LOGIN_THROTTLED,
        SecurityEvent.SESSION_REVOKED,
        SecurityEvent.CREDENTIAL_REJECTED,
        SecurityEvent.CONNECTIONS_ENDED,
    }
)


def log_security_event(event: SecurityEvent, **facts: str | float | None) -> None:
    """Log an event; `facts` are ids, names and addresses, never a secret.

    Text that a client sent is a fact only if it matched something stored: people type
    passwords into the field of the username.
    """
    write = log.warning if event in _WARNINGS else log.info
    write("security", action=event.value, **facts)
