"""Access tokens, refresh tokens and API keys: form, hashing, forgery."""

import base64
import json
from typing import Any

import jwt
import pytest

from appliance.errors import InvalidToken, SetupError, TokenExpired
from appliance.services.accounts import tokens
from appliance.services.accounts.tokens import AccessTokens, CredentialKind

SECRET = b"a secret for tests, 32 bytes or more"
NOW = 1_800_000_000.0
LIFETIME_S = 1800.0


@pytest.fixture
def access() -> AccessTokens:
    return AccessTokens(SECRET, LIFETIME_S)


def claims(**changes: Any) -> dict[str, Any]:
    valid: dict[str, Any] = {
        "iss": "monkey-coder",
        "sub": "user_1",
        "sid": "ses_1",
        "jti": "j",
        "typ": "access",
        "iat": NOW,
        "exp": NOW + LIFETIME_S,
    }
    return {name: value for name, value in (valid | changes).items() if value is not None}


def signed(payload: dict[str, Any], secret: bytes = SECRET, algorithm: str = "HS256") -> str:
    return jwt.encode(payload, secret, algorithm)  # pyright: ignore[reportUnknownMemberType]


def segment(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def test_access_token_when_issued_then_reads_back(access: AccessTokens) -> None:
    token, expires_at = access.issue("user_1", "ses_1", NOW)
    read = access.verify(token, NOW)
    assert (read.sub, read.sid, read.typ, read.iss) == ("user_1", "ses_1", "access", "monkey-coder")
    assert read.exp == expires_at == NOW + LIFETIME_S


def test_access_token_when_issued_twice_then_differs(access: AccessTokens) -> None:
    assert access.issue("user_1", "ses_1", NOW) != access.issue("user_1", "ses_1", NOW)


def test_access_token_when_its_time_is_over_then_expired(access: AccessTokens) -> None:
    token, expires_at = access.issue("user_1", "ses_1", NOW)
    assert access.verify(token, expires_at - 1)
    with pytest.raises(TokenExpired):
        access.verify(token, expires_at)


def test_access_token_when_signed_with_another_secret_then_invalid(access: AccessTokens) -> None:
    with pytest.raises(InvalidToken):
        access.verify(signed(claims(), b"x" * 32), NOW)


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", ""])
def test_access_token_when_algorithm_is_none_then_invalid(access: AccessTokens, name: str) -> None:
    header = segment({"alg": name, "typ": "JWT"})
    with pytest.raises(InvalidToken):
        access.verify(f"{header}.{segment(claims())}.", NOW)


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_access_token_when_another_algorithm_then_invalid(
    access: AccessTokens, algorithm: str
) -> None:
    with pytest.raises(InvalidToken):
        access.verify(signed(claims(), SECRET, algorithm), NOW)


def test_access_token_when_payload_is_tampered_with_then_invalid(access: AccessTokens) -> None:
    token, _ = access.issue("user_1", "ses_1", NOW)
    header, _, signature = token.split(".")
    with pytest.raises(InvalidToken):
        access.verify(f"{header}.{segment(claims(sub='user_2'))}.{signature}", NOW)


def test_access_token_when_any_character_is_changed_then_never_accepted_as_another(
    access: AccessTokens,
) -> None:
    token, _ = access.issue("user_1", "ses_1", NOW)
    # Not the last one: its lowest bits are no part of the signature.
    for index in range(len(token) - 1):
        other = "A" if token[index] != "A" else "B"
        with pytest.raises(InvalidToken):
            access.verify(token[:index] + other + token[index + 1 :], NOW)


@pytest.mark.parametrize("name", ["iss", "sub", "sid", "jti", "typ", "iat", "exp"])
def test_access_token_when_a_claim_is_missing_then_invalid(access: AccessTokens, name: str) -> None:
    with pytest.raises(InvalidToken):
        access.verify(signed(claims(**{name: None})), NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"typ": "refresh"},
        {"iss": "somebody else"},
        {"sub": 7},
        {"sid": ["ses_1"]},
        {"exp": "tomorrow"},
        {"exp": True},
        {"aud": "another service"},
    ],
)
def test_access_token_when_a_claim_is_wrong_then_invalid(
    access: AccessTokens, change: dict[str, Any]
) -> None:
    with pytest.raises(InvalidToken):
        access.verify(signed(claims(**change)), NOW)


def test_access_token_when_expiry_is_not_a_number_then_expired(access: AccessTokens) -> None:
    with pytest.raises(TokenExpired):
        access.verify(signed(claims(exp=float("nan"))), NOW)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        "\x00",
        "é.é.é",
        "💥",
        "\ud800",
        "Bearer x",
        "x" * 100_000,
        f"{base64.urlsafe_b64encode(b'[' * 700).decode()}.e30.e30",
        f"{segment([])}.{segment(claims())}.AAAA",
        f"{segment({'alg': ['HS256']})}.{segment(claims())}.AAAA",
        f"{segment({'alg': 'HS256', 'crit': ['b64'], 'b64': False})}.{segment(claims())}.AAAA",
        f"{segment({'alg': 'HS256', 'kid': 7})}.{segment(claims())}.AAAA",
    ],
)
def test_access_token_when_it_is_garbage_then_invalid(access: AccessTokens, text: str) -> None:
    with pytest.raises(InvalidToken):
        access.verify(text, NOW)


def test_access_tokens_when_the_secret_is_short_then_refused() -> None:
    with pytest.raises(SetupError):
        AccessTokens(b"x" * 31, LIFETIME_S)


def test_secrets_when_generated_then_of_their_kind_and_distinct() -> None:
    assert tokens.credential_kind(tokens.new_api_key()) is CredentialKind.KEY
    assert tokens.credential_kind(tokens.new_refresh_token()) is CredentialKind.REFRESH
    assert len({tokens.new_api_key() for _ in range(1000)}) == 1000
    assert len(tokens.new_api_key().removeprefix("mk-")) == 43


def test_hashes_when_the_kind_is_another_then_invalid() -> None:
    with pytest.raises(InvalidToken):
        tokens.hash_refresh_token(tokens.new_api_key())
    with pytest.raises(InvalidToken):
        tokens.hash_api_key(tokens.new_refresh_token())


@pytest.mark.parametrize("text", ["mk-", "mk-" + "a" * 42, "mk-" + "a" * 44, "mk-" + "é" * 43])
def test_key_hash_when_the_form_is_wrong_then_invalid(text: str) -> None:
    with pytest.raises(InvalidToken):
        tokens.hash_api_key(text)


def test_key_hash_when_a_line_end_follows_then_invalid() -> None:
    with pytest.raises(InvalidToken):
        tokens.hash_api_key(tokens.new_api_key() + "\n")


def test_visible_prefix_when_shown_then_leaves_more_than_160_bits() -> None:
    key = tokens.new_api_key()
    hidden = len(key) - len(tokens.visible_prefix(key))
    assert key.startswith(tokens.visible_prefix(key))
    assert hidden * 5.95 > 160
