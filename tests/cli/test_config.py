"""`config show`: what is in force, and where it comes from."""

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.config.loader import load
from appliance.config.settings import known_settings
from tests.support.command_line import Command, command_line


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    with command_line(capsys, monkeypatch) as call:
        yield call


def test_show_when_run_then_prints_toml_of_every_setting(cli: Command, tmp_path: Path) -> None:
    ended = cli("config", "show", "--data-dir", str(tmp_path))
    copy = tmp_path / "copy.toml"
    copy.write_text(ended.out)
    loaded = load(copy, {}, {})
    assert loaded.settings.data.dir == str(tmp_path)
    assert "default" not in loaded.origins.values()


def test_show_when_asked_for_origins_then_each_value_has_one(
    cli: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[log]\nlevel = 'debug'\n")
    monkeypatch.setenv("PORT", "81")
    ended = cli("config", "show", "--origin", "--config", str(file))
    assert "port = 81  # environment PORT" in ended.out
    assert f'level = "debug"  # {file}:2' in ended.out
    assert 'format = "text"  # default' in ended.out
    assert ended.out.startswith(f'# configuration file: "{file}"\n')


def test_show_when_secrets_are_set_then_they_are_masked_everywhere(
    cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "hush-1")
    monkeypatch.setenv("JWT_SECRET_KEY", "hush-2")
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:hush-3@host/db")
    for words in (["--origin"], ["--json"]):
        ended = cli("config", "show", *words)
        assert ended.status == 0
        assert "hush" not in ended.out + ended.err


def test_show_when_asked_for_json_then_it_is_whole(cli: Command) -> None:
    shown = json.loads(cli("config", "show", "--json").out)
    assert list(shown) == list(known_settings())
    assert shown["server.port"] == {"value": 8000, "origin": "default"}


def test_show_when_the_configuration_is_wrong_then_one_line_says_where(
    cli: Command, tmp_path: Path
) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[server]\nprot = 1\n")
    ended = cli("config", "show", "--config", str(file))
    assert ended.status == 1
    assert ended.err == (f"error: {file}:2: no setting 'server.prot'; did you mean server.port?\n")


def test_show_when_values_hold_odd_characters_then_stays_toml(
    cli: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = 'a"b\\c\nd\té'
    monkeypatch.setenv("MONKEY_CODER__DATA__DIR", str(tmp_path / odd))
    shown = tomllib.loads(cli("config", "show").out)
    assert shown["data"]["dir"] == str(tmp_path / odd)


def test_show_when_plugins_have_settings_then_their_secrets_are_masked_too(
    cli: Command, tmp_path: Path
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        "[plugins.settings.mine]\napi_key = 'hidden-1'\nsince = 2024-02-29\n"
        "[[plugins.settings.mine.places]]\nname = 'near'\nother_key = 'hidden-2'\n"
    )
    for words in ((), ("--json",)):
        ended = cli("config", "show", "--config", str(file), *words)
        assert "hidden" not in ended.out
        assert "2024-02-29" in ended.out
        assert "near" in ended.out
    told = {"mine": {"api_key": "k", "most": 3}}
    variable = {"MONKEY_CODER__PLUGINS__SETTINGS": json.dumps(told)}
    assert load(None, variable, {}).settings.plugins.settings == told
