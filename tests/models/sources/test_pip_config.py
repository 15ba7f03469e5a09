"""The effective pip configuration: files, pip's variables, uv's variables."""

import os
from pathlib import Path

import pytest

from appliance.errors import ConfigError
from appliance.models.sources.pip_config import PYPI, PipConfig, read_pip_config


def from_file(tmp_path: Path, text: str, **environ: str) -> PipConfig:
    file = tmp_path / "pip.conf"
    file.write_text(text)
    return read_pip_config({"HOME": str(tmp_path), "PIP_CONFIG_FILE": str(file)} | environ)


def from_variables(tmp_path: Path, **environ: str) -> PipConfig:
    return read_pip_config({"HOME": str(tmp_path), "PIP_CONFIG_FILE": os.devnull} | environ)


def test_read_when_nothing_is_said_then_is_pypi(tmp_path: Path) -> None:
    assert from_variables(tmp_path) == PipConfig(indexes=(PYPI,))


def test_read_when_a_file_speaks_then_every_line_counts(tmp_path: Path) -> None:
    text = """
    [global]
    index-url = https://mirror/simple
    extra-index-url =
        https://a/simple
        https://b/simple
    trusted-host = mirror
    cert = /etc/ca.pem
    [install]
    find_links = /wheels
    """
    found = from_file(tmp_path, "\n".join(line[4:] for line in text.splitlines()))
    assert found.indexes == ("https://mirror/simple", "https://a/simple", "https://b/simple")
    assert found.trusted_hosts == ("mirror",)
    assert found.cert == "/etc/ca.pem"
    assert found.find_links == ("/wheels",)


def test_read_when_file_and_variable_differ_then_the_variable_wins(tmp_path: Path) -> None:
    text = "[global]\nindex-url = https://file/simple\n"
    found = from_file(tmp_path, text, PIP_INDEX_URL="https://variable/simple")
    assert found.indexes[0] == "https://variable/simple"


def test_read_when_the_users_own_file_speaks_then_it_counts(tmp_path: Path) -> None:
    file = tmp_path / ".config/pip/pip.conf"
    file.parent.mkdir(parents=True)
    file.write_text("[global]\nindex-url = https://user/simple\n")
    environ = {"HOME": str(tmp_path), "VIRTUAL_ENV": str(tmp_path)}
    assert read_pip_config(environ).indexes[0] == "https://user/simple"


@pytest.mark.parametrize(
    ("environ", "indexes"),
    [
        ({"UV_DEFAULT_INDEX": "https://a/s"}, ("https://a/s",)),
        ({"UV_DEFAULT_INDEX": "company=https://a/s"}, ("https://a/s",)),
        ({"UV_INDEX_URL": "https://a/s?x=1"}, ("https://a/s?x=1",)),
        ({"UV_INDEX": "n=https://b/s https://c/s"}, (PYPI, "https://b/s", "https://c/s")),
        ({"UV_INDEX_URL": "https://a/s", "PIP_INDEX_URL": "https://p/s"}, ("https://p/s",)),
        ({"PIP_INDEX_URL": PYPI, "PIP_EXTRA_INDEX_URL": PYPI}, (PYPI,)),
        ({"PIP_NO_INDEX": "yes", "PIP_INDEX_URL": "https://p/s"}, ()),
    ],
)
def test_read_when_variables_are_set_then_pips_come_before_uvs(
    tmp_path: Path, environ: dict[str, str], indexes: tuple[str, ...]
) -> None:
    assert from_variables(tmp_path, **environ).indexes == indexes


def test_read_when_the_bundle_of_requests_is_set_then_it_is_trusted(tmp_path: Path) -> None:
    assert from_variables(tmp_path, REQUESTS_CA_BUNDLE="/ca.pem").cert == "/ca.pem"
    both = from_variables(tmp_path, REQUESTS_CA_BUNDLE="/ca.pem", PIP_CERT="/own.pem")
    assert both.cert == "/own.pem"


@pytest.mark.parametrize("text", ["index-url = x", "[global\n", "[global]\na=1\na=2\n"])
def test_read_when_a_file_is_broken_then_names_it_without_its_content(
    tmp_path: Path, text: str
) -> None:
    with pytest.raises(ConfigError, match=r"pip's configuration file .*pip\.conf"):
        from_file(tmp_path, text)
