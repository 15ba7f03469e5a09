"""The secrets that stand for a user: how each kind is made, told apart and read.

    access token    JWT (RFC 7519, HS256), short-lived, names its session
    refresh token   "mcr-" + 43 random characters, exchanged once
    API key         "mk-" + 43 random characters

43 characters of 62 hold 256 random bits, so a plain SHA-256 is enough to store them:
there is nothing to guess that a slow hash would have to protect.
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
# Ours have about 350 characters; a longer one is not worth parsing.
_ACCESS_MAX_CHARACTERS = 1024
_ALPHABET = string.ascii_letters + string.digits
_REFRESH = re.compile(rf"{_REFRESH_PREFIX}[A-Za-z0-9]{{{_SECRET_LENGTH}}}")
_KEY = re.compile(rf"{KEY_PREFIX}[A-Za-z0-9]{{{_SECRET_LENGTH}}}")
# `read` compares the times, against the caller's clock.
_OPTIONS: Options = {
    "require": ["iss", "sub", "sid", "jti", "typ", "iat", "exp"],
    "verify_exp": False,
    "verify_iat": False,
    "verify_nbf": False,
}


class Kind(StrEnum):
    """What a credential claims to be, judged by its form alone."""

    ACCESS = "access token"
    REFRESH = "refresh token"
    KEY = "API key"


class AccessClaims(Struct, frozen=True):
    """What an access token says. `sub` and `sid` are public ids; times are epoch seconds."""

    iss: str
    sub: str
    sid: str
    jti: str
    typ: str
    iat: float
    exp: float


def kind_of(credential: str) -> Kind:
    if credential.startswith(KEY_PREFIX):
        return Kind.KEY
    return Kind.REFRESH if credential.startswith(_REFRESH_PREFIX) else Kind.ACCESS


def new_id(prefix: str) -> str:
    """A public id, e.g. "user_…": random, no secret."""
    return f"{prefix}_{_random_text(_ID_LENGTH)}"


def new_key() -> str:
    return KEY_PREFIX + _random_text(_SECRET_LENGTH)


def new_refresh_token() -> str:
    return _REFRESH_PREFIX + _random_text(_SECRET_LENGTH)


def visible_prefix(key: str) -> str:
    """The start of a key that may be shown; the rest keeps more than 200 bits."""
    return key[:_VISIBLE_CHARACTERS]


def fingerprint(credential: str) -> str:
    """The SHA-256 under which a credential of any form is known, as hexadecimal text."""
    return hashlib.sha256(credential.encode(errors="surrogatepass")).hexdigest()


def key_hash(key: str) -> str:
    """What is stored of an API key. Raises InvalidToken if it can't be one."""
    if not _KEY.fullmatch(key):
        raise InvalidToken("this API key is not valid")
    return fingerprint(key)


def refresh_hash(token: str) -> str:
    """What is stored of a refresh token. Raises InvalidToken if it can't be one."""
    if not _REFRESH.fullmatch(token):
        raise InvalidToken("this is not a refresh token; send the one that the login returned")
    return fingerprint(token)


class AccessTokens:
    """Signs access tokens and reads them back."""

    def __init__(self, secret: bytes, lifetime_s: float) -> None:
        if len(secret) < MIN_SECRET_BYTES:
            raise SetupError(f"the secret for tokens must have at least {MIN_SECRET_BYTES} bytes")
        self._secret = secret
        self._lifetime_s = lifetime_s

    def issue(self, user_id: str, session_id: str, now: float) -> tuple[str, float]:
        """A token for a user's session (public ids), and when it expires."""
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

    def read(self, token: str, now: float) -> AccessClaims:
        """The claims of one of our tokens. Raises InvalidToken or TokenExpired."""
        claims = self._verified(token)
        if claims.typ != _ACCESS:
            raise InvalidToken("this is not an access token")
        # Not `claims.exp <= now`: that would let a NaN pass.
        if not now < claims.exp:
            raise TokenExpired("the access token has expired; refresh it or log in again")
        return claims

    def _verified(self, token: str) -> AccessClaims:
        if len(token) > _ACCESS_MAX_CHARACTERS or not token.isascii():
            raise InvalidToken("this access token is not valid; log in again")
        try:
            claims = jwt.decode(  # pyright: ignore[reportUnknownMemberType]
                token, self._secret, algorithms=[_ALGORITHM], issuer=ISSUER, options=_OPTIONS
            )
            return msgspec.convert(claims, AccessClaims)
        # A header of nothing but brackets is too deep for the JSON parser.
        except (jwt.PyJWTError, msgspec.ValidationError, RecursionError):
            raise InvalidToken("this access token is not valid; log in again") from None


def _random_text(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))
