"""The id of this server, by which it recognises its own leases after a restart."""

import contextlib
import os
import re
import secrets
from pathlib import Path

from appliance.errors import SetupError

_FILE = "server-id"
_FORM = re.compile(r"[0-9a-f]{32}")


def load_or_create(data_dir: Path) -> str:
    """The id in the data directory, created at the first start. Raises SetupError.

    Only the process that holds the lock of the database may use it: two running servers with
    one id would take each other's tasks over. A damaged file is replaced.
    """
    path = data_dir / _FILE
    try:
        with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):
            if _FORM.fullmatch(stored := path.read_text("ascii").strip()):
                return stored
        return _create(path)
    except OSError as error:
        raise SetupError(
            f"can't read or create {path}: {error.strerror}; "
            "check the owner and the permissions of the data directory"
        ) from error


def _create(path: Path) -> str:
    server_id = secrets.token_hex(16)
    temporary = path.with_name(f".{_FILE}.{secrets.token_hex(8)}")
    with temporary.open("x", encoding="ascii") as file:
        file.write(f"{server_id}\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    return server_id
