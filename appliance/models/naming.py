"""The names of models on this box."""

import re
from pathlib import Path

from appliance.errors import InvalidInput

_ALIAS = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def check_alias(alias: str) -> None:
    """Raise InvalidInput unless this can name a model in a request, a file and a log."""
    if not _ALIAS.fullmatch(alias):
        raise InvalidInput.at(
            "alias",
            f"{alias[:80]!r}: use 1 to 64 of a-z, 0-9, '.', '_', '-', a letter or digit first",
        )


def default_alias(name: str) -> str:
    """The alias that a file of this name gets."""
    stem = re.sub(r"\.gguf$", "", name.lower())
    return re.sub(r"[^a-z0-9._-]+", "-", stem).strip("._-")[:64] or "model"


def alias_of_address(source: str) -> str | None:
    """The alias that a source will get, where that is known before it is fetched."""
    from appliance.models.sources.download import file_name
    from appliance.models.sources.http import check_address
    from appliance.models.sources.staging import is_address

    if source.startswith("pypi:"):
        return None
    if is_address(source):
        check_address(source)
        return default_alias(file_name(source))
    return default_alias(Path(source).name)
