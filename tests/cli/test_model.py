"""`model`: list, add, remove, show, default."""

import asyncio
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.cli.support.progress import ProgressLine, format_size
from appliance.domain.models import ModelProbe
from appliance.models.registry import ModelRegistry
from appliance.store.sqlite.database import Database
from tests.support.command_line import Command, CommandResult, command_line
from tests.support.gguf_files import gguf, write_gguf
from tests.support.package_server import package_server


@pytest.fixture
def model(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Command]:
    """`monkey-coder model`, on a data directory of its own."""
    with command_line(capsys, monkeypatch) as call:

        def on_data_dir(name: str, *words: str) -> CommandResult:
            return call("model", name, *words, "--data-dir", str(tmp_path / "data"))

        yield on_data_dir


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    return str(write_gguf(tmp_path / "tiny.gguf"))


def test_list_when_there_is_none_then_says_how_to_get_one(model: Command) -> None:
    assert "model add" in model("list").out
    assert json.loads(model("list", "--json").out) == []


def test_add_when_given_a_file_then_shows_what_it_is(model: Command, tiny: str) -> None:
    ended = model("add", tiny)
    assert ended.status == 0
    assert "tiny (default)" in ended.out
    assert "256 tokens" in ended.out
    assert "copying tiny.gguf" in ended.err


def test_list_when_there_are_several_then_the_default_is_first_and_marked(
    model: Command, tiny: str
) -> None:
    model("add", tiny, "--alias", "b")
    model("add", tiny, "--alias", "a", "--default")
    lines = model("list").out.splitlines()
    assert lines[0].split() == ["ALIAS", "PARAMETERS", "QUANTIZATION", "CONTEXT", "SIZE", "SOURCE"]
    assert lines[1].startswith("a (default) ")
    assert lines[2].startswith("b ")
    assert [item["alias"] for item in json.loads(model("list", "--json").out)] == ["a", "b"]


def test_show_when_asked_for_json_then_has_every_field(model: Command, tiny: str) -> None:
    added = json.loads(model("add", tiny, "--json").out)
    assert json.loads(model("show", "tiny", "--json").out) == added
    assert added["is_default"] is True


def test_show_when_it_was_loaded_then_tells_what_was_measured(
    model: Command, tiny: str, tmp_path: Path
) -> None:
    model("add", tiny)
    assert "when it is first loaded" in model("show", "tiny").out
    probe = ModelProbe("key", 4, 128, 900.04, 45.5, 123_000_000, 1.5, 1.7e9)
    asyncio.run(_store_probe(tmp_path / "data", probe))
    lines = dict(line.split(maxsplit=1) for line in model("show", "tiny").out.splitlines())
    assert lines["prefill"] == "900.0 tokens/s"
    assert lines["decode"] == "45.5 tokens/s"
    assert (lines["memory"], lines["threads"]) == ("123 MB", "4")
    assert lines["chunk"].startswith("128 ")
    told = json.loads(model("show", "tiny", "--json").out)["probe"]
    assert told["load_seconds"] == 1.5


async def _store_probe(folder: Path, probe: ModelProbe) -> None:
    database = await Database.open(folder / "monkey-coder.db")
    await ModelRegistry(database, folder).store_probe("tiny", probe)
    await database.close()


def test_remove_when_the_default_goes_then_says_who_takes_over(model: Command, tiny: str) -> None:
    model("add", tiny, "--alias", "a")
    model("add", tiny, "--alias", "b")
    assert model("remove", "a").out == "Removed a.\nThe default is now b.\n"
    assert model("default", "b").out == "The default is now b.\n"
    assert model("remove", "b").out == "Removed b.\n"


@pytest.mark.parametrize("words", [("show", "x"), ("remove", "x"), ("default", "x")])
def test_command_when_the_model_is_unknown_then_one_line_and_status_1(
    model: Command, words: tuple[str, ...]
) -> None:
    ended = model(*words)
    assert ended.status == 1
    assert ended.err == "error: no model 'x'; registered: none\n"


def test_add_when_the_file_is_truncated_then_says_the_numbers(
    model: Command, tmp_path: Path
) -> None:
    whole = gguf()
    (tmp_path / "cut.gguf").write_bytes(whole[:-7])
    ended = model("add", str(tmp_path / "cut.gguf"))
    assert ended.status == 1
    assert f"need {len(whole)} bytes, the file has {len(whole) - 7}" in ended.err


def test_add_when_given_an_address_then_downloads(model: Command) -> None:
    with package_server() as server:
        server.files["net.gguf"] = gguf()
        ended = model("add", server.file_url("net.gguf"), "--alias", "net")
    assert ended.status == 0
    assert "downloading net.gguf" in ended.err


def test_add_when_plain_http_comes_without_a_hash_then_warns(model: Command) -> None:
    """F75"""
    with package_server() as server:
        server.files["net.gguf"] = gguf()
        url = server.file_url("net.gguf")
        bare = model("add", url, "--alias", "a")
        sha256 = hashlib.sha256(gguf()).hexdigest()
        checked = model("add", url, "--alias", "b", "--sha256", sha256)
    assert (bare.status, checked.status) == (0, 0)
    assert "warning: plain http" in bare.err
    assert "--sha256" in bare.err
    assert "warning" not in checked.err


def test_progress_when_there_is_no_terminal_then_names_each_step_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = ProgressLine()
    for done in range(5):
        line("copying a", done, 4)
    line("checking", 1, None)
    line.end()
    assert capsys.readouterr().err == "copying a …\nchecking …\n"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (98_362_432, "98 MB"), (4.7e9, "4.7 GB"), (7e13, "70000.0 GB")],
)
def test_size_when_shown_then_is_readable(count: float, text: str) -> None:
    assert format_size(count) == text
