"""Settings of the provider."""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from appliance.errors import ConfigError


class Options(Struct, frozen=True):
    """`[models]` of the configuration; zeros: choose what suits the model and the machine."""

    default: str = ""
    preload: bool = True
    context_tokens: int = 0
    threads: int = 0
    max_sequences: int = 8
    queue_limit: int = 64
    load_timeout_s: float = 120.0
    load_wait_s: float = 30.0
    idle_unload_s: float = 0.0
    memory_mib: int = 0
    gpu_layers: int = -1


def read_options(settings: Mapping[str, Any]) -> Options:
    """Decode the settings. Raises ConfigError for a value of the wrong type."""
    try:
        return msgspec.convert(dict(settings), Options)
    except msgspec.ValidationError as error:
        raise ConfigError(f"models: {error}") from error
