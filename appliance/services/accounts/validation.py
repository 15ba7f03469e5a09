"""Validation of usernames, emails, passwords, plan names and display names."""

import re
import unicodedata

from appliance.errors import InvalidInput

# The built-in user of development keys; its names can't be registered.
DEV_USERNAME = "dev"
DEV_EMAIL = "dev@localhost"

PASSWORD_MAX_BYTES = 1024
_PASSWORD_MIN_CHARACTERS = 8
_EMAIL_MAX_CHARACTERS = 254
_NAME_MAX_CHARACTERS = 100
# ASCII only: distinct usernames must not look alike.
_USERNAME = re.compile(r"[a-z0-9][a-z0-9._-]{1,63}")
_PLAN = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_EMAIL = re.compile(r"[^\s@<>()\[\],;:\\\"]+@[^\W_]([\w.-]*[^\W_])?")
_CONTROL_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})
# Bidirectional control characters can make one name look like another.
_BIDI_CONTROLS = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def canonicalize(identifier: str) -> str:
    """The form in which a username or an email is stored and looked up: NFC, lower case."""
    text = identifier.encode(errors="replace").decode().strip()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).lower())


def validate_plan(text: str) -> str:
    """The canonical name of a plan, configured or not. Raises InvalidInput."""
    plan = canonicalize(text)
    if not _PLAN.fullmatch(plan):
        raise InvalidInput.at(
            "plan",
            "must be 1 to 32 characters a-z, 0-9, '_' or '-', starting with a letter or digit, "
            "such as free, pro or enterprise",
        )
    return plan


def validate_username(text: str) -> str:
    """The canonical username. Raises InvalidInput."""
    username = canonicalize(text)
    if not _USERNAME.fullmatch(username):
        raise InvalidInput.at(
            "username",
            "must be 2 to 64 characters a-z, 0-9, '.', '_' or '-', starting with a letter or digit",
        )
    if username == DEV_USERNAME:
        raise InvalidInput.at("username", f"{DEV_USERNAME!r} is reserved for development keys")
    return username


def validate_email(text: str) -> str:
    """The canonical email address. Raises InvalidInput."""
    email = canonicalize(text)
    well_formed = _EMAIL.fullmatch(email) and ".." not in email and _is_plain(email)
    if not well_formed or len(email) > _EMAIL_MAX_CHARACTERS:
        raise InvalidInput.at("email", "must be an address like name@example.com")
    if email == DEV_EMAIL:
        raise InvalidInput.at("email", f"{DEV_EMAIL!r} is reserved for development keys")
    return email


def validate_name(text: str, field: str = "name") -> str:
    """A display name: one line in any script. Raises InvalidInput."""
    name = text.strip()
    if not name or len(name) > _NAME_MAX_CHARACTERS:
        raise InvalidInput.at(field, f"must have 1 to {_NAME_MAX_CHARACTERS} characters")
    if not _is_plain(name):
        raise InvalidInput.at(field, "must be one line without control characters")
    return name


def validate_password(password: str) -> str:
    """The password, unchanged. Raises InvalidInput."""
    if len(password) < _PASSWORD_MIN_CHARACTERS:
        raise InvalidInput.at(
            "password", f"must have at least {_PASSWORD_MIN_CHARACTERS} characters"
        )
    if not is_possible_password(password):
        raise InvalidInput.at(
            "password", f"must be valid text of at most {PASSWORD_MAX_BYTES} bytes in UTF-8"
        )
    return password


def is_possible_password(password: str) -> bool:
    """Whether an account can have this password; does not check the minimum length."""
    # Count characters first: encoding a huge text is the cost that this check avoids.
    if len(password) > PASSWORD_MAX_BYTES:
        return False
    try:
        return len(password.encode()) <= PASSWORD_MAX_BYTES
    except UnicodeEncodeError:
        return False


def _is_plain(text: str) -> bool:
    return not any(
        unicodedata.category(character) in _CONTROL_CATEGORIES or character in _BIDI_CONTROLS
        for character in text
    )
