"""Aliases of models: validation, and the default alias of a source."""

import re
from pathlib import Path

from appliance.domain.split_models import parse_part_name
from appliance.errors import InvalidInput

_ALIAS = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def check_alias(alias: str) -> None:
    """Raises InvalidInput unless `alias` is safe in requests, file names and logs."""
    if not _ALIAS.fullmatch(alias):
        raise InvalidInput.at(
            "alias",
            f"{alias[:80]!r} must be 1 to 64 characters a-z, 0-9, '.', '_' or '-', starting with a "
            "letter or digit",
        )
    if parse_part_name(f"{alias}.gguf") is not None:
        raise InvalidInput.at("alias", f"{alias!r} must not end like a part of a split model")


def alias_from_file_name(name: str) -> str:
    """The default alias for a file of this name."""
    part = parse_part_name(name)
    stem = part.stem.lower() if part else re.sub(r"\.gguf$", "", name.lower())
    return re.sub(r"[^a-z0-9._-]+", "-", stem).strip("._-")[:64] or "model"


def alias_from_source(source: str) -> str | None:
    """The default alias of a source; None if it is known only after the download."""
    from appliance.models.sources.download import url_file_name
    from appliance.models.sources.http import validate_url
    from appliance.models.sources.staging import is_url

    if source.startswith("pypi:"):
        return None
    if is_url(source):
        validate_url(source)
        return alias_from_file_name(url_file_name(source))
    return alias_from_file_name(Path(source).name)
