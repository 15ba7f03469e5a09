"""Rules of the code base that a reader relies on: sizes, package maps, names, import contracts."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[1]
PRODUCT = ("appliance", "plugins", "packaging")
MAX_LINES = 400
MAX_UNMAPPED_MODULES = 10

# Metaphors and participles that stood for standard terms; see the module map of each package.
BANNED_NAMES = re.compile(
    "asked|aim|begun|books|box|boxes|doors|drawn|entered|errand|fence|fleet|found|given|gate"
    "|house|launched|made|nest|opening|patience|pumped|ran|room|rooms|said|tenant|told"
    "|walls|wanted|ward|warmth|wish|wishes"
)


def _modules(*tops: str) -> Iterator[Path]:
    for top in tops:
        yield from sorted((ROOT / top).rglob("*.py"))


def _definitions(file: Path) -> Iterator[tuple[int, str]]:
    """(line, name) of each class and function."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name


def test_file_when_counted_then_has_at_most_400_lines() -> None:
    long = {
        str(file.relative_to(ROOT)): lines
        for file in _modules(*PRODUCT, "tests")
        if (lines := len(file.read_text("utf-8").splitlines())) > MAX_LINES
    }
    assert long == {}


def test_package_when_it_is_part_of_the_product_then_its_docstring_says_what_it_holds() -> None:
    silent = [
        str(file.parent.relative_to(ROOT))
        for file in _modules("appliance", "plugins")
        if file.name == "__init__.py" and not ast.get_docstring(ast.parse(file.read_text("utf-8")))
    ]
    assert silent == []


def test_package_when_it_has_more_than_ten_modules_then_its_docstring_maps_each() -> None:
    missing: dict[str, list[str]] = {}
    for init in _modules("appliance", "plugins"):
        if init.name != "__init__.py":
            continue
        folder = init.parent
        modules = [file.name for file in folder.glob("*.py") if file != init]
        docstring = ast.get_docstring(ast.parse(init.read_text("utf-8"))) or ""
        if len(modules) > MAX_UNMAPPED_MODULES:
            unmapped = [
                each for each in modules if not re.search(rf"\b{re.escape(each)}", docstring)
            ]
            if unmapped:
                missing[str(folder.relative_to(ROOT))] = sorted(unmapped)
    assert missing == {}


def test_name_when_it_is_a_module_class_or_function_then_it_is_none_of_the_banned() -> None:
    banned: list[str] = []
    for file in _modules("appliance", "plugins"):
        if BANNED_NAMES.fullmatch(file.stem):
            banned.append(str(file.relative_to(ROOT)))
        banned += [
            f"{file.relative_to(ROOT)}:{line}: {name}"
            for line, name in _definitions(file)
            if BANNED_NAMES.fullmatch(name.strip("_").lower())
        ]
    assert banned == []


def test_imports_when_checked_then_all_contracts_of_pyproject_hold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0
