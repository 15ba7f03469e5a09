"""The data directory of a command: where it is, and who may read it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from appliance.cli.support.instance import (
    data_dir,
    database_path,
    load_instance,
    open_database,
    prepare_data_dir,
)
from appliance.config.settings import DataSettings, Settings
from appliance.errors import ConfigError, SetupError


def settings(**data: Any) -> Settings:
    return Settings(data=DataSettings(**data))


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "PORT", "HOST", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)


def test_data_dir_when_set_then_is_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert data_dir(settings(dir="data")) == tmp_path / "data"
    monkeypatch.setenv("HOME", "/home/a")
    assert data_dir(settings(dir="~/data")) == Path("/home/a/data")


def test_data_dir_when_not_set_then_follows_xdg_or_the_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert data_dir(settings()) == Path("/data/monkey-coder")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/a")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert data_dir(settings()) == Path("/home/a/.local/share/monkey-coder")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert data_dir(settings()) == Path("/var/lib/monkey-coder")


def test_prepare_data_dir_when_missing_then_is_made_for_its_owner_only(tmp_path: Path) -> None:
    path = prepare_data_dir(settings(dir=str(tmp_path / "a/b")))
    assert path.stat().st_mode & 0o777 == 0o700
    assert prepare_data_dir(settings(dir=str(path))) == path


@pytest.mark.parametrize(
    ("mode", "held"),
    [
        (0o777, ""),
        (0o755, ""),
        (0o704, ""),
        (0o720, ""),
        (0o755, "config.toml"),
        (0o705, "monkey-coder.db"),
    ],
)
def test_prepare_data_dir_when_only_we_put_something_in_then_is_closed_to_others_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: int, held: str
) -> None:
    """F34"""
    if held:
        (tmp_path / held).touch()
    tmp_path.chmod(mode)
    assert prepare_data_dir(settings(dir=str(tmp_path))) == tmp_path
    assert tmp_path.stat().st_mode & 0o777 == 0o700
    assert f"mode {mode:04o} changed to 0700" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("mode", "held"),
    [(0o777, "config.toml"), (0o720, "monkey-coder.db"), (0o755, "other"), (0o1777, "")],
)
def test_prepare_data_dir_when_others_may_have_put_something_in_then_refuses_with_the_remedy(
    tmp_path: Path, mode: int, held: str
) -> None:
    """F34"""
    if held:
        (tmp_path / held).touch()
    tmp_path.chmod(mode)
    with pytest.raises(SetupError, match=f"run: chmod 700 {tmp_path}"):
        prepare_data_dir(settings(dir=str(tmp_path)))
    assert tmp_path.stat().st_mode & 0o7777 == mode


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders away")
def test_prepare_data_dir_when_it_belongs_to_another_user_then_says_whose(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, 12345)
    with pytest.raises(SetupError, match="belongs to user id 12345"):
        prepare_data_dir(settings(dir=str(folder)))


def test_prepare_data_dir_when_it_can_not_be_made_then_says_why(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for place in (file, file / "below"):
        with pytest.raises(SetupError, match="--data-dir"):
            prepare_data_dir(settings(dir=str(place)))


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("", "/data/monkey-coder.db"),
        ("sqlite:////srv/a.db", "/srv/a.db"),
        ("sqlite:///~/a.db", "/home/a/a.db"),
    ],
)
def test_database_path_when_sqlite_then_is_its_file(
    monkeypatch: pytest.MonkeyPatch, url: str, path: str
) -> None:
    monkeypatch.setenv("HOME", "/home/a")
    assert database_path(settings(dir="/data", database_url=url)) == Path(path)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgresql://me:hush@host/db", "PostgreSQL is not supported by this version"),
        ("postgresql+asyncpg://host/db", "PostgreSQL is not supported by this version"),
        ("postgres://host/db", "PostgreSQL is not supported by this version"),
        ("mysql://host/db", "expected sqlite:///"),
        ("sqlite:///", "expected sqlite:///"),
        ("/srv/a.db", "expected sqlite:///"),
    ],
)
def test_database_path_when_something_else_then_refuses_without_secrets(
    url: str, reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        database_path(settings(database_url=url))
    assert "hush" not in caught.value.message


def test_load_server_when_flags_are_given_then_they_win(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORT", "1")
    flags: Mapping[str, object] = {"server.port": 2, "server.host": None}
    loaded = load_instance(None, tmp_path, flags)
    assert loaded.settings.server.port == 2
    assert loaded.settings.data.dir == str(tmp_path)


async def test_open_server_when_opened_twice_then_both_see_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    loaded = load_instance(None, folder)
    async with open_database(loaded) as first, open_database(loaded) as second:
        async with first.write() as tx:
            await tx.execute("CREATE TABLE seen (x INTEGER)")
        async with second.read() as connection:
            assert await connection.scalar("SELECT count(*) FROM seen") == 0
    assert (folder / "monkey-coder.db").exists()
