"""The secret that signs access tokens: a setting, or a file created at the first start."""

import os
import secrets
import stat
from pathlib import Path

from appliance.errors import SetupError
from appliance.services.accounts.tokens import MIN_SECRET_BYTES

_FOLDER = "secrets"
_FILE = "jwt.key"
_PATH_TEXT = f"{_FOLDER}/{_FILE} in the data directory"
_RANDOM_BYTES = 48
_MAX_FILE_BYTES = 4096
_GROUP_OR_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def load_or_create(data_dir: Path, configured: str) -> bytes:
    """The secret `configured`, or if empty, that of the file in the data directory.

    Creates the file if it does not exist, readable by its owner only. Raises SetupError
    for a secret that is too short or a file that other users can read.
    """
    if configured:
        return _validate_configured(configured)
    folder = data_dir / _FOLDER
    try:
        _make_folder(folder)
        if not (folder / _FILE).exists():
            _create(folder)
        return _load(folder / _FILE)
    except OSError as error:
        raise SetupError(
            f"can't read or create {_PATH_TEXT}: {error.strerror}; "
            "check the owner and the permissions of the data directory"
        ) from error


def _validate_configured(text: str) -> bytes:
    secret = text.strip().encode()
    if len(secret) < MIN_SECRET_BYTES:
        raise SetupError(
            f"auth.jwt_secret_key (JWT_SECRET_KEY) has {len(secret)} bytes; the minimum is "
            f"{MIN_SECRET_BYTES}. Generate one with `openssl rand -base64 48`, "
            "or leave it empty: the server then generates its own"
        )
    return secret


def _make_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    mode = folder.lstat().st_mode
    if not stat.S_ISDIR(mode):
        raise SetupError(
            f"{_FOLDER} in the data directory must be a directory, not a symbolic link"
        )
    if mode & _GROUP_OR_OTHERS:
        raise SetupError(
            f"other users can access {_FOLDER} in the data directory; "
            f"run `chmod 700 {_FOLDER}` there"
        )


def _create(folder: Path) -> None:
    """Write a temporary file, then link it to its name; the first of two processes wins."""
    temporary = folder / f".{_FILE}.{secrets.token_hex(8)}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_urlsafe(_RANDOM_BYTES).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        _publish(temporary, folder / _FILE)
    finally:
        temporary.unlink()
    _fsync_folder(folder)


def _publish(temporary: Path, target: Path) -> None:
    try:
        target.hardlink_to(temporary)
    except FileExistsError:
        # Another process was first: use its secret.
        return


def _load(file: Path) -> bytes:
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as opened:
        _check_private(os.fstat(opened.fileno()))
        secret = opened.read(_MAX_FILE_BYTES + 1).strip()
    if not MIN_SECRET_BYTES <= len(secret) <= _MAX_FILE_BYTES:
        raise SetupError(
            f"{_PATH_TEXT} is damaged ({len(secret)} bytes); delete it: the server creates a new "
            "one, and every user has to log in again"
        )
    return secret


def _check_private(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise SetupError(
            f"{_PATH_TEXT} must be a regular file; delete it: the server creates a new one"
        )
    if status.st_mode & _GROUP_OR_OTHERS:
        raise SetupError(
            f"other users can read {_PATH_TEXT}; run `chmod 600 {_FILE}` there, or delete it: the "
            "server creates a new one, and every user has to log in again"
        )


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
