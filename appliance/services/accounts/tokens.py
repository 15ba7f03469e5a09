"""Credentials: generation, form, hashing, and access tokens.

    access token    JWT (RFC 7519, HS256), short-lived, holds the id of its session
    refresh token   "mcr-" + 43 random characters, works once
    API key         "mk-" + 43 random characters

43 characters out of 62 are 256 random bits. They can't be guessed, so they are stored
as a plain SHA-256: a slow hash would add nothing.
"""

import hashlib
import re
import secrets
import string
from enum import StrEnum

import jwt
import msgspec
from jwt.types import Options
from msgspec import Struct

from appliance.errors import InvalidToken, SetupError, TokenExpired

ISSUER = "monkey-coder"
MIN_SECRET_BYTES = 32
_ALGORITHM = "HS256"
_ACCESS = "access"
_REFRESH_PREFIX = "mcr-"
KEY_PREFIX = "mk-"
_VISIBLE_CHARACTERS = len(KEY_PREFIX) + 8
_SECRET_LENGTH = 43
_ID_LENGTH = 20
# Issued tokens have about 350 characters; reject longer ones without parsing.
_ACCESS_MAX_CHARACTERS = 1024
_ALPHABET = string.ascii_letters + string.digits
_REFRESH = re.compile(rf"{_REFRESH_PREFIX}[A-Za-z0-9]{{{_SECRET_LENGTH}}}")
_KEY = re.compile(rf"{KEY_PREFIX}[A-Za-z0-9]{{{_SECRET_LENGTH}}}")
# `verify` checks the times against the clock of its caller.
_OPTIONS: Options = {
    "require": ["iss", "sub", "sid", "jti", "typ", "iat", "exp"],
    "verify_exp": False,
    "verify_iat": False,
    "verify_nbf": False,
}


class CredentialKind(StrEnum):
    """Kind of a credential, judged by its prefix alone."""

    ACCESS = "access token"
    REFRESH = "refresh token"
    KEY = "API key"


class AccessClaims(Struct, frozen=True):
    """Claims of an access token. `sub` and `sid` are public ids; times are epoch seconds."""

    iss: str
    sub: str
    sid: str
    jti: str
    typ: str
    iat: float
    exp: float


def credential_kind(credential: str) -> CredentialKind:
    if credential.startswith(KEY_PREFIX):
        return CredentialKind.KEY
    return (
        CredentialKind.REFRESH if credential.startswith(_REFRESH_PREFIX) else CredentialKind.ACCESS
    )


def new_public_id(prefix: str) -> str:
    """A random public id such as "user_…"; not a secret."""
    return f"{prefix}_{_random_text(_ID_LENGTH)}"


def new_api_key() -> str:
    return KEY_PREFIX + _random_text(_SECRET_LENGTH)


def new_refresh_token() -> str:
    return _REFRESH_PREFIX + _random_text(_SECRET_LENGTH)


def visible_prefix(key: str) -> str:
    """The start of a key that may be shown; the rest still has more than 200 random bits."""
    return key[:_VISIBLE_CHARACTERS]


def fingerprint(credential: str) -> str:
    """The SHA-256 of a credential of any kind, in hexadecimal."""
    return hashlib.sha256(credential.encode(errors="surrogatepass")).hexdigest()


def hash_api_key(key: str) -> str:
    """The hash stored for an API key. Raises InvalidToken if it is malformed."""
    if not _KEY.fullmatch(key):
        raise InvalidToken("this API key is not valid")
    return fingerprint(key)


def hash_refresh_token(token: str) -> str:
    """The hash stored for a refresh token. Raises InvalidToken if it is malformed."""
    if not _REFRESH.fullmatch(token):
        raise InvalidToken("this is not a refresh token; send the one that the login returned")
    return fingerprint(token)


class AccessTokens:
    """Signs and verifies access tokens."""

    def __init__(self, secret: bytes, lifetime_s: float) -> None:
        if len(secret) < MIN_SECRET_BYTES:
            raise SetupError(f"the signing secret must have at least {MIN_SECRET_BYTES} bytes")
        self._secret = secret
        self._lifetime_s = lifetime_s

    def issue(self, user_id: str, session_id: str, now: float) -> tuple[str, float]:
        """A token for a user's session (public ids), and its expiry in epoch seconds."""
        claims = AccessClaims(
            iss=ISSUER,
            sub=user_id,
            sid=session_id,
            jti=_random_text(_ID_LENGTH),
            typ=_ACCESS,
            iat=int(now),
            exp=int(now + self._lifetime_s),
        )
        payload = msgspec.to_builtins(claims)
        token = jwt.encode(payload, self._secret, _ALGORITHM)  # pyright: ignore[reportUnknownMemberType]
        return token, claims.exp

    def verify(self, token: str, now: float) -> AccessClaims:
        """The claims of a valid token. Raises InvalidToken or TokenExpired."""
        claims = self._decode(token)
        if claims.typ != _ACCESS:
            raise InvalidToken("this is not an access token")
        # Not `claims.exp <= now`: NaN would pass.
        if not now < claims.exp:
            raise TokenExpired("the access token has expired; refresh it or log in again")
        return claims

    def _decode(self, token: str) -> AccessClaims:
        if len(token) > _ACCESS_MAX_CHARACTERS or not token.isascii():
            raise InvalidToken("this access token is not valid; log in again")
        try:
            claims = jwt.decode(  # pyright: ignore[reportUnknownMemberType]
                token, self._secret, algorithms=[_ALGORITHM], issuer=ISSUER, options=_OPTIONS
            )
            return msgspec.convert(claims, AccessClaims)
        # RecursionError: a header of nested brackets only.
        except (jwt.PyJWTError, msgspec.ValidationError, RecursionError):
            raise InvalidToken("this access token is not valid; log in again") from None


def _random_text(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))
