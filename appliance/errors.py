"""Everything that can go wrong, as one tree of exceptions with stable codes.

    ApplianceError                     INTERNAL_ERROR
    ├─ InvalidInput                    VALIDATION_ERROR
    │  ├─ PayloadTooLarge              PAYLOAD_TOO_LARGE
    │  ├─ BodyTimeout                  REQUEST_TIMEOUT
    │  ├─ ContextLengthExceeded        CONTEXT_LENGTH_EXCEEDED
    │  └─ UnknownModel                 MODEL_NOT_FOUND
    ├─ Unauthenticated                 UNAUTHORIZED
    │  ├─ InvalidCredentials           INVALID_CREDENTIALS
    │  ├─ InvalidToken                 INVALID_TOKEN
    │  └─ TokenExpired                 TOKEN_EXPIRED
    ├─ Forbidden                       FORBIDDEN
    ├─ NotFound                        RESOURCE_NOT_FOUND
    ├─ Conflict                        CONFLICT
    │  └─ TaskNotCancellable           TASK_NOT_CANCELLABLE
    ├─ RateLimited                     RATE_LIMIT_EXCEEDED
    ├─ DeadlineExceeded                DEADLINE_EXCEEDED
    ├─ Unavailable                     SERVICE_UNAVAILABLE
    │  ├─ QueueFull                    QUEUE_FULL
    │  ├─ ModelUnavailable             MODEL_UNAVAILABLE
    │  ├─ ProviderFailed               PROVIDER_ERROR
    │  │  └─ ProviderMisconfigured     PROVIDER_MISCONFIGURED
    │  └─ SandboxUnavailable           SANDBOX_UNAVAILABLE
    └─ SetupError                      SETUP_ERROR
       ├─ ConfigError                  CONFIG_ERROR
       ├─ StoreError                   STORE_ERROR
       └─ PluginError                  PLUGIN_ERROR

The message says what was wrong and what to do; it may reach any client, so it
never holds a secret, a path of the server, a query or a stack trace. `details` is small,
JSON-compatible and equally public. Mapping codes to HTTP is the API's business.
"""

from collections.abc import Mapping
from typing import Any

_RESTART_S = 5.0


class ApplianceError(Exception):
    """Base of the tree. `retry_after` is in seconds, where waiting can help."""

    code = "INTERNAL_ERROR"

    def __init__(
        self,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = dict(details or {})
        self.retry_after = retry_after


class InvalidInput(ApplianceError):
    """The caller sent something wrong. Use `at` to name the field."""

    code = "VALIDATION_ERROR"

    @classmethod
    def at(cls, field: str, reason: str) -> "InvalidInput":
        """An error about one field: `details` is {field, reason}."""
        return cls(f"{field}: {reason}", details={"field": field, "reason": reason})


class PayloadTooLarge(InvalidInput):
    code = "PAYLOAD_TOO_LARGE"


class IncompleteBody(ApplianceError):
    """The body of a request ended before its end, or its chunked encoding is malformed."""

    code = InvalidInput.code


class BodyTimeout(InvalidInput):
    """The body of a request came more slowly than the server waits for it."""

    code = "REQUEST_TIMEOUT"


class ContextLengthExceeded(InvalidInput):
    """A prompt that does not fit. `details`: {prompt_tokens, max_tokens, context_tokens}.

    `field` is there, too, if one of several texts does not fit.
    """

    code = "CONTEXT_LENGTH_EXCEEDED"


class UnknownModel(InvalidInput):
    code = "MODEL_NOT_FOUND"


class Unauthenticated(ApplianceError):
    code = "UNAUTHORIZED"


class InvalidCredentials(Unauthenticated):
    code = "INVALID_CREDENTIALS"


class InvalidToken(Unauthenticated):
    code = "INVALID_TOKEN"


class TokenExpired(Unauthenticated):
    code = "TOKEN_EXPIRED"


class Forbidden(ApplianceError):
    code = "FORBIDDEN"


class NotFound(ApplianceError):
    code = "RESOURCE_NOT_FOUND"


class Conflict(ApplianceError):
    code = "CONFLICT"


class TaskNotCancellable(Conflict):
    code = "TASK_NOT_CANCELLABLE"


class RateLimited(ApplianceError):
    code = "RATE_LIMIT_EXCEEDED"


class DeadlineExceeded(ApplianceError):
    code = "DEADLINE_EXCEEDED"


class Unavailable(ApplianceError):
    code = "SERVICE_UNAVAILABLE"


class ServerStopping(Unavailable):
    """The server is shutting down: it starts nothing, and ended what outlasted its grace."""

    def __init__(self) -> None:
        super().__init__("the server is shutting down; retry shortly", retry_after=_RESTART_S)


class QueueFull(Unavailable):
    """`details`: {queue_length, queue_limit}."""

    code = "QUEUE_FULL"


class ModelUnavailable(Unavailable):
    """No model is configured, or the requested one is loading or failed to load."""

    code = "MODEL_UNAVAILABLE"


class ProviderFailed(Unavailable):
    """A provider took the request and could not finish it."""

    code = "PROVIDER_ERROR"


class ProviderMisconfigured(ProviderFailed):
    """A provider fails until the administrator changes its key, account or address.

    To repeat the request can't help.
    """

    code = "PROVIDER_MISCONFIGURED"


class SandboxUnavailable(Unavailable):
    """This machine can't confine untrusted code; the message says what is missing."""

    code = "SANDBOX_UNAVAILABLE"

    @classmethod
    def with_remedy(cls, problem: str, remedy: str) -> "SandboxUnavailable":
        """An error that says both; `details` holds the remedy on its own."""
        return cls(f"{problem}: {remedy}", details={"remedy": remedy})


class SetupError(ApplianceError):
    """The administrator has to change something before the server can start."""

    code = "SETUP_ERROR"


class ConfigError(SetupError):
    code = "CONFIG_ERROR"


class StoreError(SetupError):
    code = "STORE_ERROR"


class PluginError(SetupError):
    code = "PLUGIN_ERROR"
