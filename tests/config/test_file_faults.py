"""Odd configuration files: a byte order mark (F32), secrets that others can read (F75)."""

from pathlib import Path

import pytest

from appliance.config.loader import load
from appliance.errors import ConfigError
from tests.support.command_line import command_line

OUTSIDE = {"XDG_DATA_HOME": "/nonexistent"}
SECRETS = [
    '[providers.openai]\napi_key = "hush"\n',
    '[auth]\njwt_secret_key = "hushhushhushhushhushhushhushhush"\n',
    '[providers.upstreams.near]\napi_key = "hush"\n',
    '[plugins.settings.mine]\nlicence_key = "hush"\n',
    '[providers.openai]\nproxy = "http://me:hush@proxy:1"\n',
]


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_load_when_the_file_begins_with_a_byte_order_mark_then_it_is_skipped(
    tmp_path: Path,
) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(b"\xef\xbb\xbf[server]\nport = 1\n")
    loaded = load(file, OUTSIDE, {})
    assert loaded.settings.server.port == 1
    assert loaded.origins["server.port"] == f"{file}:2"


def test_load_when_a_value_file_begins_with_a_byte_order_mark_then_it_is_skipped(
    tmp_path: Path,
) -> None:
    file = tmp_path / "key"
    file.write_bytes(b"\xef\xbb\xbfhush\r\n")
    loaded = load(None, OUTSIDE | {"OPENAI_API_KEY__FILE": str(file)}, {})
    assert loaded.settings.providers.openai.api_key == "hush"


def test_load_when_the_file_is_utf16_then_the_error_says_what_is_expected(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes("[server]\nport = 1\n".encode("utf-16"))
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load(file, OUTSIDE, {})


@pytest.mark.parametrize("text", SECRETS)
def test_load_when_others_can_read_a_file_with_secrets_then_warns_without_the_secret(
    tmp_path: Path, text: str
) -> None:
    file = write(tmp_path / "config.toml", text, 0o644)
    [warning] = load(file, OUTSIDE, {}).warnings
    assert "(mode 0644)" in warning.problem
    assert warning.remedy == f"run: chmod o-rwx {file}"
    assert "hush" not in repr(warning)


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        *((text, mode) for text in SECRETS for mode in (0o600, 0o640)),
        ("[server]\nport = 1\n", 0o644),
        ('[providers.openai]\napi_key = ""\nbase_url = "http://near:1/v1"\n', 0o644),
        ('[sandbox]\nlanguages = ["python"]\n[plugins.settings.mine]\ndepth = 3\n', 0o644),
    ],
)
def test_load_when_there_is_no_secret_or_others_can_not_read_it_then_no_warning(
    tmp_path: Path, text: str, mode: int
) -> None:
    assert load(write(tmp_path / "config.toml", text, mode), OUTSIDE, {}).warnings == ()


def test_command_when_the_file_is_readable_by_others_then_the_warning_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "config.toml", SECRETS[0], 0o644)
    with command_line(capsys, monkeypatch) as cli:
        ended = cli("config", "show", "--config", str(file))
    assert ended.err == (
        f"warning: {file} holds secrets, and every user of this machine can read it "
        f"(mode 0644); run: chmod o-rwx {file}\n"
    )


def test_load_when_a_setting_has_its_old_name_then_warns_with_the_new_one(tmp_path: Path) -> None:
    file = write(tmp_path / "config.toml", "[gateway]\nfar_parallel = 3\n")
    loaded = load(file, OUTSIDE, {})
    assert loaded.settings.gateway.remote_concurrency == 3
    [warning] = loaded.warnings
    assert "gateway.far_parallel is now gateway.remote_concurrency" in warning.problem
