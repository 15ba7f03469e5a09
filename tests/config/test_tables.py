"""Sections that the administrator names, from the file and from the environment."""

import re
import tomllib
from pathlib import Path

import pytest

from appliance.config.loader import Loaded, load
from appliance.config.settings import known_tables
from appliance.errors import ConfigError
from tests.support.command_line import command_line

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"
OUTSIDE = {"XDG_DATA_HOME": "/nonexistent"}
TWO = """[providers.upstreams.vllm]
base_url = "http://127.0.0.1:8001/v1"
models = ["a", "b"]

[providers.upstreams."gpu-4.1"]
kind = "anthropic"
api_key = "hush"
"""


def loaded(tmp_path: Path, text: str, **environ: str) -> Loaded:
    file = tmp_path / "config.toml"
    file.write_text(text)
    return load(file, OUTSIDE | environ, {})


def test_load_when_a_table_has_entries_then_each_has_its_values_and_origins(
    tmp_path: Path,
) -> None:
    found = loaded(tmp_path, TWO)
    upstreams = found.settings.providers.upstreams
    assert list(upstreams) == ["vllm", "gpu-4.1"]
    assert upstreams["vllm"].models == ("a", "b")
    assert (upstreams["gpu-4.1"].kind, upstreams["gpu-4.1"].api_key) == ("anthropic", "hush")
    assert found.origins["providers.upstreams.vllm.base_url"].endswith("config.toml:2")
    assert found.origins['providers.upstreams."gpu-4.1".kind'].endswith("config.toml:6")
    assert found.origins['providers.upstreams."gpu-4.1".proxy'] == "default"


def test_load_when_the_environment_names_an_entry_of_the_file_then_it_overrides_it(
    tmp_path: Path,
) -> None:
    start = "MONKEY_CODER__PROVIDERS__UPSTREAMS__"
    environ = {f"{start}GPU_4_1__API_KEY": "new", f"{start}VLLM__CONNECT_TIMEOUT_S": "2"}
    upstreams = loaded(tmp_path, TWO, **environ).settings.providers.upstreams
    assert list(upstreams) == ["vllm", "gpu-4.1"]
    assert upstreams["gpu-4.1"].api_key == "new"
    assert upstreams["vllm"].connect_timeout_s == 2.0


def test_load_when_only_the_environment_names_an_entry_then_it_exists(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("k\n")
    start = "MONKEY_CODER__PROVIDERS__UPSTREAMS__OLLAMA__"
    environ = {f"{start}API_KEY__FILE": str(secret), f"{start}MODELS": "x, y"}
    found = loaded(tmp_path, "", **environ)
    assert found.settings.providers.upstreams["ollama"].api_key == "k"
    assert found.settings.providers.upstreams["ollama"].models == ("x", "y")


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("[providers.upstreams.a]\nbase_ur = 'x'\n", 2, "did you mean providers.upstreams.a.base"),
        ("[providers.upstreams.a]\nkind = 'other'\n", 2, "'openai', 'anthropic', 'google'"),
        ("[providers.upstreams.a]\ntimeout_s = 0\n", 2, "> 0"),
        ("[providers.upstreams.a]\n", 1, "is empty"),
        ("[providers]\nupstreams = 3\n", 2, "write it as [providers.upstreams.NAME]"),
        ("[providers.upstreams]\na = 3\n", 2, "is empty"),
        ("[providers.upstreams.'a b']\nkind = 'openai'\n", 1, "is not a valid name"),
        ("[providers.upstream.a]\nkind = 'openai'\n", 1, "did you mean providers.upstreams?"),
    ],
)
def test_load_when_an_entry_is_wrong_then_names_line_and_reason(
    tmp_path: Path, text: str, line: int, reason: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, text)
    assert f"config.toml:{line}: " in caught.value.message
    assert reason in caught.value.message


@pytest.mark.parametrize("key", ["A__NOPE", "A", "__API_KEY", "A B__API_KEY"])
def test_load_when_a_variable_names_no_setting_of_an_entry_then_refuses(
    tmp_path: Path, key: str
) -> None:
    with pytest.raises(ConfigError, match="no such setting"):
        loaded(tmp_path, "", **{f"MONKEY_CODER__PROVIDERS__UPSTREAMS__{key}": "1"})


def test_show_when_there_are_entries_then_prints_them_as_toml_with_secrets_masked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(TWO)
    with command_line(capsys, monkeypatch) as call:
        ended = call("config", "show", "--config", str(file))
    shown = tomllib.loads(ended.out)["providers"]["upstreams"]
    assert shown["vllm"]["models"] == ["a", "b"]
    assert shown["gpu-4.1"]["api_key"] == "********"
    assert "hush" not in ended.out


def test_example_when_read_then_names_every_table() -> None:
    named = re.findall(r"^# \[([a-z_.]+)\.\S+\]$", EXAMPLE.read_text(), re.MULTILINE)
    assert named == list(known_tables())
