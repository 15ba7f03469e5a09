"""Plugins: discovery, registration as a whole, refusal of directories that others can write."""

import os
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import plugins
from appliance.config.settings import PluginSettings
from appliance.errors import PluginError
from appliance.plugins import RESERVED, child_argv, load, run_child

GOOD = "def register(registry):\n    registry.add_provider({name!r}, lambda context: None)\n"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A directory for plugins; what was imported from it is forgotten afterwards."""
    folder = tmp_path / "plugins"
    folder.mkdir(mode=0o755)
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if name.startswith("plugins."):
            del sys.modules[name]
    plugins.__path__[:] = [place for place in plugins.__path__ if place != str(folder)]


def write(folder: Path, name: str, code: str) -> Path:
    file = folder / f"{name}.py"
    file.write_text(code)
    file.chmod(0o644)
    return file


def reasons(folder: Path, disabled: tuple[str, ...] = ()) -> dict[str, str]:
    loaded = load(PluginSettings(path=str(folder), disabled=disabled))
    return {problem.name: problem.reason for problem in loaded.problems}


def test_load_when_built_ins_are_there_then_they_are_plugins_like_any_other() -> None:
    loaded = load(PluginSettings())
    assert "llama_cpp" in loaded.registry.providers
    assert "bubblewrap" in loaded.registry.sandboxes
    assert loaded.problems == ()


def test_load_when_a_built_in_is_disabled_then_it_is_left_out() -> None:
    loaded = load(PluginSettings(disabled=("llama_cpp",)))
    assert "llama_cpp" not in loaded.registry.providers


def test_load_when_the_directory_has_a_plugin_then_it_is_registered(folder: Path) -> None:
    write(folder, "cloud_a", GOOD.format(name="cloud_a"))
    loaded = load(PluginSettings(path=str(folder)))
    assert "cloud_a" in loaded.registry.providers
    assert loaded.problems == ()


def test_load_when_called_again_then_finds_what_was_added(folder: Path) -> None:
    load(PluginSettings(path=str(folder)))
    write(folder, "cloud_b", GOOD.format(name="cloud_b"))
    loaded = load(PluginSettings(path=str(folder)))
    assert "cloud_b" in loaded.registry.providers
    assert list(plugins.__path__).count(str(folder)) == 1


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
        ("import no_such_library", "No module named 'no_such_library'"),
        ("def register(registry", "SyntaxError"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("x = 1", "no register(registry)"),
        ("register = 7", "no register(registry)"),
        ("def register(registry): raise ValueError('later')", "ValueError: later"),
    ],
)
def test_load_when_a_plugin_is_broken_then_it_is_reported_and_the_rest_loads(
    folder: Path, code: str, reason: str
) -> None:
    write(folder, "broken", code)
    write(folder, "works", GOOD.format(name="works"))
    loaded = load(PluginSettings(path=str(folder)))
    assert "works" in loaded.registry.providers
    [problem] = loaded.problems
    assert problem.name == "broken"
    assert reason in problem.reason


def test_load_when_a_plugin_breaks_half_way_then_nothing_of_it_stays(folder: Path) -> None:
    write(folder, "half", GOOD.format(name="half_done") + "    raise ValueError('x')\n")
    loaded = load(PluginSettings(path=str(folder)))
    assert "half_done" not in loaded.registry.providers


def test_load_when_a_name_is_offered_twice_then_the_first_stays(folder: Path) -> None:
    write(folder, "rival", GOOD.format(name="llama_cpp"))
    assert "already offers 'llama_cpp'" in reasons(folder)["rival"]


@pytest.mark.parametrize("name", RESERVED)
def test_load_when_a_plugin_has_the_name_of_a_built_in_package_then_it_is_refused(
    folder: Path, name: str
) -> None:
    write(folder, name, GOOD.format(name="fake"))
    assert "reserved" in reasons(folder)[name]


def test_reserved_when_compared_with_the_packages_of_the_product_then_none_is_missing() -> None:
    packages = {each.name for each in pkgutil.iter_modules(plugins.__path__)}
    assert packages <= set(RESERVED)


def test_load_when_a_broken_plugin_is_disabled_then_it_is_not_even_imported(folder: Path) -> None:
    write(folder, "bomb", f"open({str(folder / 'ran')!r}, 'w')")
    assert reasons(folder, disabled=("bomb",)) == {}
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
def test_load_when_others_can_write_the_directory_then_nothing_of_it_runs(
    folder: Path, mode: int
) -> None:
    write(folder, "evil", f"open({str(folder / 'ran')!r}, 'w')")
    folder.chmod(mode)
    [reason] = reasons(folder).values()
    assert "writable by others" in reason
    assert f"chmod -R go-w {folder}" in reason
    assert not (folder / "ran").exists()
    assert str(folder) not in plugins.__path__


def test_load_when_others_can_write_a_file_or_folder_in_it_then_it_is_refused(folder: Path) -> None:
    file = write(folder, "shared", GOOD.format(name="shared"))
    file.chmod(0o666)
    assert "shared.py is writable by others" in next(iter(reasons(folder).values()))
    file.chmod(0o644)
    inner = folder / "package"
    inner.mkdir()
    inner.chmod(0o777)
    assert "package is writable by others" in next(iter(reasons(folder).values()))


def test_load_when_a_link_leads_to_what_others_can_write_then_it_is_refused(
    folder: Path, tmp_path: Path
) -> None:
    outside = write(tmp_path, "outside", GOOD.format(name="outside"))
    outside.chmod(0o666)
    (folder / "linked.py").symlink_to(outside)
    assert "writable by others" in next(iter(reasons(folder).values()))


def test_load_when_a_folder_above_can_be_written_by_others_then_it_is_refused(
    tmp_path: Path,
) -> None:
    above = tmp_path / "open"
    below = above / "plugins"
    below.mkdir(parents=True)
    above.chmod(0o777)
    assert f"{above} is writable by others" in next(iter(reasons(below).values()))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_load_when_the_directory_belongs_to_somebody_else_then_it_is_refused(folder: Path) -> None:
    os.chown(folder, 12345, 12345)
    assert "belongs to user id 12345" in next(iter(reasons(folder).values()))


def test_load_when_the_directory_is_missing_then_it_is_reported_not_fatal(tmp_path: Path) -> None:
    assert "not a directory" in reasons(tmp_path / "none")[str(tmp_path / "none")]


def test_run_child_when_given_a_module_of_the_server_then_runs_its_main(folder: Path) -> None:
    write(folder, "helper", "def main(argv):\n    return len(argv)\n")
    load(PluginSettings(path=str(folder)))
    module = child_argv("plugins.helper")[-1]
    assert module == f"plugins.helper@{folder}"
    assert run_child(module, ["a", "b"]) == 2


def test_child_argv_when_given_a_built_in_then_names_the_module_only() -> None:
    assert (
        child_argv("plugins.providers.llama_cpp.supervision.engine_process")[-1]
        == "plugins.providers.llama_cpp.supervision.engine_process"
    )


@pytest.mark.parametrize("module", ["os", "plugins..os", "appliance.cli", "plugins.a-b", ""])
def test_run_child_when_given_anything_else_then_refuses(module: str) -> None:
    with pytest.raises(PluginError):
        run_child(module, [])


def test_run_child_when_the_directory_is_not_safe_then_refuses(folder: Path) -> None:
    write(folder, "helper2", "def main(argv):\n    return 0\n")
    folder.chmod(0o777)
    with pytest.raises(PluginError, match="writable by others"):
        run_child(f"plugins.helper2@{folder}", [])
