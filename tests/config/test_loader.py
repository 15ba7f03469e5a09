"""Settings: flag > environment > file > default, each with its origin; mistakes with a place."""

from pathlib import Path
from typing import Any

import pytest

from appliance.config.loader import PLAIN_NAMES, Loaded, default_data_dir, load, mask_secrets
from appliance.config.settings import Settings, known_settings
from appliance.errors import ConfigError

OUTSIDE = {"XDG_DATA_HOME": "/nonexistent"}


def from_env(**environ: str) -> Loaded:
    return load(None, OUTSIDE | environ, {})


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    return tmp_path / "settings.toml"


def from_file(path: Path, text: str) -> Loaded:
    path.write_text(text)
    return load(path, OUTSIDE, {})


def problem(**environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        from_env(**environ)
    return caught.value.message


def problem_in(path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        from_file(path, text)
    return caught.value.message


def test_load_when_nothing_is_said_then_all_is_default() -> None:
    loaded = from_env()
    assert loaded.settings == Settings()
    assert set(loaded.origins) == set(known_settings())
    assert set(loaded.origins.values()) == {"default"}
    assert loaded.file is None


def test_load_when_all_sources_speak_then_flag_beats_environment_beats_file(
    config_file: Path,
) -> None:
    config_file.write_text('[server]\nport = 1\nhost = "a"\ndocs = false\n')
    environ = OUTSIDE | {"PORT": "2", "HOST": "b"}
    loaded = load(config_file, environ, {"server.port": 3, "server.host": None})
    server = loaded.settings.server
    assert (server.port, server.host, server.docs) == (3, "b", False)
    assert loaded.origins["server.port"] == "command line"
    assert loaded.origins["server.host"] == "environment HOST"
    assert loaded.origins["server.docs"] == f"{config_file}:4"
    assert loaded.origins["server.max_body_bytes"] == "default"


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("PORT", "8080", "server.port", 8080),
        ("PORT", " 8080 ", "server.port", 8080),
        ("HOST", "0.0.0.0", "server.host", "0.0.0.0"),
        (
            "CORS_ORIGINS",
            "https://a, https://b,",
            "server.cors_origins",
            ("https://a", "https://b"),
        ),
        ("DATABASE_URL", "sqlite:///x.db", "data.database_url", "sqlite:///x.db"),
        ("JWT_SECRET_KEY", "s3", "auth.jwt_secret_key", "s3"),
        ("OPENAI_API_KEY", "k1", "providers.openai.api_key", "k1"),
        ("ANTHROPIC_API_KEY", "k2", "providers.anthropic.api_key", "k2"),
        ("GOOGLE_API_KEY", "k3", "providers.google.api_key", "k3"),
        ("MONKEY_CODER__PROVIDERS__OPENAI__API_KEY", "k4", "providers.openai.api_key", "k4"),
        ("MONKEY_CODER__AUTH__DEV_KEYS", "yes", "auth.dev_keys", True),
        ("MONKEY_CODER__AUTH__DEV_KEYS", "TRUE", "auth.dev_keys", True),
        ("MONKEY_CODER__MODELS__PRELOAD", "0", "models.preload", False),
        ("MONKEY_CODER__SCHEDULER__AGEING_S", "1.5", "scheduler.ageing_s", 1.5),
        ("MONKEY_CODER__SCHEDULER__AGEING_S", "2", "scheduler.ageing_s", 2.0),
        ("MONKEY_CODER__PLUGINS__DISABLED", "a,b", "plugins.disabled", ("a", "b")),
        ("MONKEY_CODER__LOG__FORMAT", "json", "log.format", "json"),
    ],
)
def test_load_when_a_variable_is_set_then_it_is_read_in_the_type_of_its_setting(
    variable: str, text: str, name: str, value: Any
) -> None:
    loaded = from_env(**{variable: text})
    found: Any = loaded.settings
    for part in name.split("."):
        found = getattr(found, part)
    assert found == value
    assert type(found) is type(value)
    assert loaded.origins[name] == f"environment {variable}"


def test_load_when_both_names_are_set_then_our_own_wins() -> None:
    loaded = from_env(PORT="1", MONKEY_CODER__SERVER__PORT="2")
    assert loaded.settings.server.port == 2


def test_load_when_a_documented_variable_is_empty_then_it_counts_as_not_set() -> None:
    loaded = from_env(PORT="", OPENAI_API_KEY="", CORS_ORIGINS="")
    assert loaded.settings == Settings()
    assert loaded.origins["server.port"] == "default"


@pytest.mark.parametrize("base", [*PLAIN_NAMES, "MONKEY_CODER__AUTH__JWT_SECRET_KEY"])
def test_load_when_a_variable_names_a_file_then_its_content_is_the_value(
    tmp_path: Path, base: str
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("1234\n")
    loaded = from_env(**{f"{base}__FILE": str(secret)})
    assert f"environment {base}__FILE" in loaded.origins.values()


def test_load_when_a_secret_file_is_missing_empty_or_binary_then_says_which(
    tmp_path: Path,
) -> None:
    missing, empty, binary = tmp_path / "no", tmp_path / "empty", tmp_path / "binary"
    empty.write_text("\n")
    binary.write_bytes(b"\xff\xfe\x00")
    assert str(missing) in problem(JWT_SECRET_KEY__FILE=str(missing))
    assert "empty" in problem(JWT_SECRET_KEY__FILE=str(empty))
    assert "UTF-8" in problem(JWT_SECRET_KEY__FILE=str(binary))
    assert "Is a directory" in problem(JWT_SECRET_KEY__FILE=str(tmp_path))


def test_load_when_a_value_comes_directly_and_by_file_then_refuses(tmp_path: Path) -> None:
    said = problem(JWT_SECRET_KEY="a", JWT_SECRET_KEY__FILE=str(tmp_path / "x"))
    assert "both set" in said


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("MONKEY_CODER__SERVER__PROT", "MONKEY_CODER__SERVER__PORT"),
        ("MONKEY_CODER__PROVIDERS__OPENAI__KEY", "MONKEY_CODER__PROVIDERS__OPENAI__API_KEY"),
        ("MONKEY_CODER_SERVER__PORT", "MONKEY_CODER__SERVER__PORT"),
        ("MONKEY_CODER__SERVER__PROT__FILE", "MONKEY_CODER__SERVER__PORT"),
    ],
)
def test_load_when_a_variable_is_unknown_then_names_it_and_the_nearest(
    variable: str, nearest: str
) -> None:
    said = problem(**{variable: "1"})
    assert variable in said
    assert f"did you mean {nearest}?" in said


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ("[server]\nprot = 1\n", ":2", "did you mean server.port?"),
        ("\n[servre]\nport = 1\n", ":2", "did you mean server?"),
        ("port = 1\n", ":1", "did you mean server.port?"),
        ("[server]\n\nport = '1'\n", ":3", "Expected int, got str"),
        ("[server]\nport = true\n", ":2", "Expected int, got bool"),
        ("[server]\nport = 70000\n", ":2", "<= 65535"),
        ("server = 3\n", ":1", "write it as [server]"),
        ("[server]\ncors_origins = 'a'\n", ":2", "Expected array, got str"),
        ("[log]\nlevel = 'loud'\n", ":2", "'debug', 'info', 'warning', 'error'"),
        ("[scheduler]\nageing_s = inf\n", ":2", "finite"),
        ("[scheduler]\nageing_s = nan\n", ":2", ""),
        ("[scheduler]\nageing_s = 0\n", ":2", "> 0"),
        ('[providers]\nopenai = {api_kye = "x"}\n', ":2", "providers.openai.api_key"),
        ("providers.openai.nope = 1\n", ":1", "no setting 'providers.openai.nope'"),
        ('[data]\ndir = "a\\u0000b"\n', ":2", "NUL byte"),
    ],
)
def test_load_when_the_file_has_a_mistake_then_names_line_and_reason(
    config_file: Path, text: str, place: str, reason: str
) -> None:
    said = problem_in(config_file, text)
    assert said.startswith(f"{config_file}{place}: ")
    assert reason in said


def test_load_when_a_secret_has_the_wrong_type_then_the_error_does_not_hold_it(
    config_file: Path,
) -> None:
    said = problem_in(config_file, "[auth]\njwt_secret_key = 424242424242\n")
    assert "424242" not in said


def test_load_when_toml_is_broken_then_names_the_line(config_file: Path) -> None:
    assert "line 2" in problem_in(config_file, "[server]\nport =\n")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[server]\n" + b"#" * 2_000_000])
def test_load_when_the_file_is_binary_or_huge_then_is_refused(
    config_file: Path, content: bytes
) -> None:
    config_file.write_bytes(content)
    with pytest.raises(ConfigError, match=str(config_file)):
        load(config_file, OUTSIDE, {})


def test_load_when_toml_nests_without_end_then_is_refused(config_file: Path) -> None:
    with pytest.raises(ConfigError):
        from_file(config_file, "x = " + "[" * 100_000)


def test_load_when_the_named_file_is_missing_then_says_so(tmp_path: Path) -> None:
    missing = tmp_path / "none.toml"
    with pytest.raises(ConfigError, match="No such file"):
        load(missing, OUTSIDE, {})
    with pytest.raises(ConfigError, match="No such file"):
        load(None, OUTSIDE | {"MONKEY_CODER_CONFIG": str(missing)}, {})


def test_load_when_the_data_directory_has_a_file_then_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[server]\nport = 77\n")
    by_flag = load(None, OUTSIDE, {"data.dir": str(tmp_path)})
    by_variable = load(None, OUTSIDE | {"MONKEY_CODER__DATA__DIR": str(tmp_path)}, {})
    assert by_flag.settings.server.port == by_variable.settings.server.port == 77
    assert by_flag.file == tmp_path / "config.toml"


def test_load_when_an_override_is_unknown_or_wrong_then_refuses() -> None:
    for overrides in ({"server.prot": 1}, {"server.port": "x"}):
        with pytest.raises(ConfigError, match="command line"):
            load(None, OUTSIDE, overrides)


def test_default_data_dir_when_xdg_is_set_then_lies_there_if_absolute() -> None:
    assert default_data_dir({"XDG_DATA_HOME": "/data"}) == Path("/data/monkey-coder")
    relative = default_data_dir({"XDG_DATA_HOME": "data", "HOME": "/home/a"})
    assert relative.is_absolute()
    assert "data/monkey-coder" not in str(relative)


def test_shown_when_a_value_is_secret_then_it_is_masked() -> None:
    settings = known_settings()
    assert mask_secrets(settings["auth.jwt_secret_key"], "abc") == "********"
    assert mask_secrets(settings["providers.openai.api_key"], "") == ""
    url = "postgresql://user:pa:ss@host/db"
    assert mask_secrets(settings["data.database_url"], url) == "postgresql://user:********@host/db"
    assert mask_secrets(settings["server.port"], 80) == 80


def test_known_settings_when_named_in_the_environment_then_no_name_is_ambiguous() -> None:
    variables = [setting.variable for setting in known_settings().values()]
    assert len(set(variables)) == len(variables)
    assert not [name for name in variables if name.endswith("__FILE")]
