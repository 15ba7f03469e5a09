"""Provider plugin for local models: llama.cpp, one engine process per model.

provider.py    the provider, in the server's process
supervision/   starts and watches engine processes, and talks to them
protocol/      the messages between server and engine
engine/        the engine process: continuous batching, KV cache, prefix reuse
prompt/        chat templates and tokenization
sampling/      sampling, detokenization, log probabilities
speculation/   speculative decoding by prompt lookup
tool_calls/    formats of tool calls: parsing and grammars
grammar/       GBNF: parser, safety checks, JSON schema to GBNF
constraints/   one grammar for output format and tool calls
confinement/   locks the engine process down before it reads a model
host/          memory sizes and exit diagnosis of engine processes
native/        bindings to llama.cpp
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from appliance.spi.provider import Provider
    from appliance.spi.registry import PluginContext, Registry

NAME = "llama_cpp"


def register(registry: "Registry") -> None:
    """Register the provider; its modules are imported when it is built."""
    registry.add_provider(NAME, _build)


def _build(context: "PluginContext") -> "Provider":
    from plugins.providers.llama_cpp.provider import LlamaCppProvider

    return LlamaCppProvider(NAME, context)
