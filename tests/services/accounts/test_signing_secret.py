"""The signing secret: created once, readable by its owner only."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from appliance.errors import SetupError
from appliance.services.accounts.signing_secret import load_or_create

LONG = "0123456789abcdef0123456789abcdef"


def key_file(data_dir: Path) -> Path:
    return data_dir / "secrets" / "jwt.key"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_secret_when_first_asked_for_then_made_private_and_kept(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        secret = load_or_create(tmp_path, "")
    finally:
        os.umask(previous)
    assert len(secret) >= 32
    assert mode(key_file(tmp_path)) == 0o600
    assert mode(key_file(tmp_path).parent) == 0o700
    assert load_or_create(tmp_path, "") == secret
    assert [file.name for file in key_file(tmp_path).parent.iterdir()] == ["jwt.key"]


def test_secret_when_two_servers_create_one_then_they_differ(tmp_path: Path) -> None:
    assert load_or_create(tmp_path / "a", "") != load_or_create(tmp_path / "b", "")


def test_secret_when_many_make_it_at_once_then_all_get_the_same(tmp_path: Path) -> None:
    together = Barrier(8)

    def make(_: int) -> bytes:
        together.wait(10)
        return load_or_create(tmp_path, "")

    with ThreadPoolExecutor(8) as pool:
        secrets = set(pool.map(make, range(8)))
    assert len(secrets) == 1
    assert [file.name for file in key_file(tmp_path).parent.iterdir()] == ["jwt.key"]


def test_secret_when_configured_then_used_and_no_file_is_made(tmp_path: Path) -> None:
    assert load_or_create(tmp_path, f" {LONG}\n") == LONG.encode()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("configured", ["hunter2", LONG[:-1], " " * 40])
def test_secret_when_configured_too_short_then_refused_with_a_remedy_and_not_repeated(
    tmp_path: Path, configured: str
) -> None:
    with pytest.raises(SetupError, match="openssl rand") as refused:
        load_or_create(tmp_path, configured)
    assert configured not in refused.value.message


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o660, 0o620, 0o777])
def test_secret_when_others_can_read_it_then_refused_with_a_remedy(
    tmp_path: Path, bits: int
) -> None:
    load_or_create(tmp_path, "")
    key_file(tmp_path).chmod(bits)
    with pytest.raises(SetupError, match="chmod 600"):
        load_or_create(tmp_path, "")


@pytest.mark.parametrize("bits", [0o750, 0o705, 0o777])
def test_secret_when_others_can_enter_the_folder_then_refused_with_a_remedy(
    tmp_path: Path, bits: int
) -> None:
    load_or_create(tmp_path, "")
    key_file(tmp_path).parent.chmod(bits)
    with pytest.raises(SetupError, match="chmod 700"):
        load_or_create(tmp_path, "")


@pytest.mark.parametrize("content", [b"", b"short", b" " * 50, b"x" * 5000])
def test_secret_when_the_file_is_damaged_then_refused_with_a_remedy(
    tmp_path: Path, content: bytes
) -> None:
    load_or_create(tmp_path, "")
    key_file(tmp_path).write_bytes(content)
    with pytest.raises(SetupError, match="delete it"):
        load_or_create(tmp_path, "")


def test_secret_when_the_file_is_a_link_then_refused(tmp_path: Path) -> None:
    load_or_create(tmp_path / "other", "")
    load_or_create(tmp_path / "server", "")
    key_file(tmp_path / "server").unlink()
    key_file(tmp_path / "server").symlink_to(key_file(tmp_path / "other"))
    with pytest.raises(SetupError):
        load_or_create(tmp_path / "server", "")


def test_secret_when_the_link_leads_nowhere_then_refused(tmp_path: Path) -> None:
    load_or_create(tmp_path, "")
    key_file(tmp_path).unlink()
    key_file(tmp_path).symlink_to(tmp_path / "nowhere")
    with pytest.raises(SetupError):
        load_or_create(tmp_path, "")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_secret_when_no_plain_file_then_refused_without_waiting(tmp_path: Path, kind: str) -> None:
    load_or_create(tmp_path, "")
    key_file(tmp_path).unlink()
    if kind == "folder":
        key_file(tmp_path).mkdir()
    else:
        os.mkfifo(key_file(tmp_path), 0o600)
    with pytest.raises(SetupError):
        load_or_create(tmp_path, "")


def test_secret_when_the_folder_is_a_link_then_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "secrets").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SetupError, match="not a symbolic link"):
        load_or_create(tmp_path, "")


def test_secret_when_the_data_directory_is_a_file_then_refused(tmp_path: Path) -> None:
    (tmp_path / "server").write_text("")
    with pytest.raises(SetupError, match="data directory"):
        load_or_create(tmp_path / "server", "")
