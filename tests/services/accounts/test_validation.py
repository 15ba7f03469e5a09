"""Validation of usernames, emails, names and passwords."""

import pytest

from appliance.errors import InvalidInput
from appliance.services.accounts import validation


@pytest.mark.parametrize(
    "username",
    [
        "",
        "a",
        "a" * 65,
        ".alice",
        "-alice",
        "ali ce",
        "ali\nce",
        "alice@example.com",
        "ali\x00ce",
        "ali\ud800ce",
        "\u0430lice",  # the first letter is Cyrillic
        "ålice",
        "\uff41lice",  # full width
        "alice\u200b",
        "'; DROP TABLE users; --",
        "x" * 10**6,
    ],
)
def test_username_when_bad_then_invalid(username: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        validation.validate_username(username)
    assert refused.value.details["field"] == "username"


@pytest.mark.parametrize("username", ["al", "7up", "a.b_c-d", "x" * 64])
def test_username_when_good_then_as_it_is(username: str) -> None:
    assert validation.validate_username(username) == username


@pytest.mark.parametrize("spelling", ["Alice", "ALICE", " alice\n"])
def test_username_when_spelled_otherwise_then_the_same(spelling: str) -> None:
    assert validation.validate_username(spelling) == "alice"


@pytest.mark.parametrize(
    "email",
    [
        "",
        "alice",
        "@example.com",
        "alice@",
        "a@b@c",
        "al ice@example.com",
        "alice@exa mple.com",
        "alice@-example.com",
        "alice@example.com.",
        "alice@example..com",
        "alice@example.com\nBcc: all@example.com",
        "alice\x00@example.com",
        "alice\u202e@example.com",
        "alice\ud800@example.com@",
        "<alice@example.com>",
        "alice@example.com" + "m" * 254,
        "a@" + "b-" * 10**5,
    ],
)
def test_email_when_bad_then_invalid(email: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        validation.validate_email(email)
    assert refused.value.details["field"] == "email"


@pytest.mark.parametrize(
    "email", ["a@b", "admin@localhost", "o'hara+box@mail.example.co.uk", "jürgen@köln.example"]
)
def test_email_when_good_then_the_same_in_any_case(email: str) -> None:
    assert validation.validate_email(email) == email
    assert validation.validate_email(email.upper()) == email


def test_email_when_composed_otherwise_then_the_same() -> None:
    assert validation.validate_email("u\u0308@x") == validation.validate_email("\u00dc@x")


def test_canonicalize_when_applied_twice_then_unchanged() -> None:
    for text in ("İstanbul", "ΑΣ", "ǅ", "K", "\u0130\u0307", "A\u0345\u0301"):
        once = validation.canonicalize(text)
        assert validation.canonicalize(once) == once


@pytest.mark.parametrize("name", ["", " ", "x" * 101, "a\nb", "a\x1b[31mb", "\ud800", "a\u2066b"])
def test_name_when_bad_then_invalid(name: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        validation.validate_name(name)
    assert refused.value.details["field"] == "name"


@pytest.mark.parametrize("name", ["李小龍", "Zoë", "محمد", "👩‍💻 Ada", "O'Hara; DROP TABLE users"])
def test_name_when_of_any_script_then_kept(name: str) -> None:
    assert validation.validate_name(f" {name} ") == name


@pytest.mark.parametrize(
    "password", ["", "7 chars", "x" * 1025, "é" * 513, "\ud800" * 8, "x" * 5_000_000]
)
def test_password_when_bad_then_invalid_and_not_repeated(password: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        validation.validate_password(password)
    assert refused.value.details["field"] == "password"
    assert not password or password not in refused.value.message


@pytest.mark.parametrize("password", ["8 chars!", "x" * 1024, "é" * 512, "        "])
def test_password_when_good_then_unchanged(password: str) -> None:
    assert validation.validate_password(password) == password
