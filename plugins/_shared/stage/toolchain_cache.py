"""Where what languages have ready-made lies on the host (see appliance.domain.toolchain_cache)."""

import contextlib
from pathlib import Path

from appliance.domain import toolchain_cache
from appliance.spi.registry import PluginContext


def folder(context: PluginContext) -> Path | None:
    """The folder to show to runs, which find in it what comes later, too; None: there is none.

    That of the box itself is made; another's, as that which is only inspected, is not.
    """
    place = context.sandbox_prepared
    if place is None:
        place = context.data_dir / toolchain_cache.FOLDER
        with contextlib.suppress(OSError):
            place.mkdir(mode=0o755, exist_ok=True)
    return place if place.is_dir() else None
