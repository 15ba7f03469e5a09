"""The secret that signs tokens: a file that the box makes for itself, or a setting."""

import os
import secrets
import stat
from pathlib import Path

from appliance.errors import SetupError
from appliance.services.accounts.tokens import MIN_SECRET_BYTES

_FOLDER = "secrets"
_FILE = "jwt.key"
_PLACE = f"{_FOLDER}/{_FILE} in the data directory"
_RANDOM_BYTES = 48
_MAX_FILE_BYTES = 4096
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def load_or_create(data_dir: Path, configured: str) -> bytes:
    """The secret for access tokens: `configured`, or the box's own file.

    The file is made at first use, readable by its owner only. Raises SetupError, which
    says what to do, for a secret that is too short or that others can read.
    """
    if configured:
        return _configured(configured)
    folder = data_dir / _FOLDER
    try:
        _make_folder(folder)
        if not (folder / _FILE).exists():
            _create(folder)
        return _load(folder / _FILE)
    except OSError as error:
        raise SetupError(
            f"can't read or write {_PLACE}: {error.strerror}; "
            "check the owner and the permissions of the data directory"
        ) from error


def _configured(text: str) -> bytes:
    secret = text.strip().encode()
    if len(secret) < MIN_SECRET_BYTES:
        raise SetupError(
            f"auth.jwt_secret_key (JWT_SECRET_KEY) has {len(secret)} bytes, at least "
            f"{MIN_SECRET_BYTES} are needed; make one with `openssl rand -base64 48`, "
            "or leave it empty and the box makes its own"
        )
    return secret


def _make_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    mode = folder.lstat().st_mode
    if not stat.S_ISDIR(mode):
        raise SetupError(f"{_FOLDER} in the data directory must be a directory, not a link")
    if mode & _OTHERS:
        raise SetupError(
            f"other users can look into {_FOLDER} in the data directory; "
            f"run `chmod 700 {_FOLDER}` there"
        )


def _create(folder: Path) -> None:
    """Write the file whole before it gets its name; of two processes the first one wins."""
    draft = folder / f".{_FILE}.{secrets.token_hex(8)}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_urlsafe(_RANDOM_BYTES).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        _name(draft, folder / _FILE)
    finally:
        draft.unlink()
    _sync(folder)


def _name(draft: Path, target: Path) -> None:
    try:
        target.hardlink_to(draft)
    except FileExistsError:
        # Another process was first: its secret is the one.
        return


def _load(file: Path) -> bytes:
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as opened:
        _check_private(os.fstat(opened.fileno()))
        secret = opened.read(_MAX_FILE_BYTES + 1).strip()
    if not MIN_SECRET_BYTES <= len(secret) <= _MAX_FILE_BYTES:
        raise SetupError(
            f"{_PLACE} is damaged ({len(secret)} bytes); delete it and the box makes a new one "
            "(everybody then logs in again)"
        )
    return secret


def _check_private(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise SetupError(f"{_PLACE} must be a plain file; delete it and the box makes a new one")
    if status.st_mode & _OTHERS:
        raise SetupError(
            f"other users can read {_PLACE}; run `chmod 600 {_FILE}` there, or better delete it "
            "and the box makes a new one (everybody then logs in again)"
        )


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
