"""config.example.toml names every setting with its default and a line of why."""

import itertools
import re
from pathlib import Path

from appliance.config.loader import PLAIN_NAMES, load
from appliance.config.settings import Settings, known_settings

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"


def test_example_when_loaded_then_every_setting_is_there_with_its_default() -> None:
    loaded = load(EXAMPLE, {}, {})
    assert loaded.settings == Settings()
    missing = [name for name, origin in loaded.origins.items() if origin == "default"]
    assert missing == []


def test_example_when_read_then_settings_stand_in_the_order_of_the_code() -> None:
    section, names = "", list[str]()
    for line in EXAMPLE.read_text().splitlines():
        if header := re.match(r"\[(.+)\]", line):
            section = header[1]
        elif key := re.match(r"(\w+) = ", line):
            names.append(f"{section}.{key[1]}")
    assert names == list(known_settings())


def test_example_when_read_then_each_setting_is_explained_by_the_line_above() -> None:
    lines = EXAMPLE.read_text().splitlines()
    pairs = itertools.pairwise(lines)
    bare = [line for above, line in pairs if re.match(r"\w+ = ", line) and above[:2] != "# "]
    assert bare == []


def test_example_when_read_then_names_every_variable_of_the_documents() -> None:
    text = EXAMPLE.read_text()
    assert [name for name in PLAIN_NAMES if name not in text] == []
