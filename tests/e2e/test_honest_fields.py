"""No field of an answer is always the same (F74), over varied requests to real servers."""

from pathlib import Path
from typing import Any

import anthropic.types
import openai.types
import openai.types.chat
import openai.types.responses

from tests.e2e.constant_fields import CONSTANTS, MAX_CONSTANTS
from tests.support import varied_models, varied_recorder, varied_runs
from tests.support import varied_requests as varied
from tests.support.fake_upstream import fake_upstream
from tests.support.field_values import FieldValues, discriminators
from tests.support.varied_recorder import Recorder

USERS = {"alice": ("developer", "free"), "admin": ("admin", "team"), "vera": ("viewer", "pro")}
CONFIG = """
[providers.upstreams.up]
base_url = "{url}/v1"
models = ["m", "n"]
[providers.upstreams.down]
base_url = "{url}/down/v1"
models = ["m"]
[prices."up/m"]
input = 1000.0
output = 3000.0
[routes.smart]
models = ["up/n", "up/m", "tiny"]
[routes.broken]
models = ["none/x"]
[plans.pro]
sandbox = {{ memory_mib = 100 }}
[cache]
max_entries = 2
max_age_s = 0.5
"""
SMALL = {
    "AUTH__DEV_KEYS": "false",
    "AUTH__ACCESS_TOKEN_MINUTES": "5",
    "PLUGINS__DISABLED": "llama_cpp",
    "SANDBOX__REQUIRE": "microvm",
    "SERVER__MAX_BODY_BYTES": "100000",
    "LIMITS__PROMPT_BYTES": "1000",
    "LIMITS__FILES": "5",
    "LIMITS__FILE_BYTES": "1000",
    "LIMITS__REQUESTS_PER_MINUTE": "1000",
    "LIMITS__BURST": "1000",
    "AGENT__MAX_BRANCHES": "2",
    "SCHEDULER__WORKERS": "1",
    "SCHEDULER__TASK_TIMEOUT_S": "20",
    "SCHEDULER__QUEUE_LIMIT": "3",
    "SCHEDULER__QUEUE_LIMIT_PER_USER": "2",
    "GATEWAY__QUEUE_LIMIT": "3",
    "GATEWAY__QUEUE_LIMIT_PER_USER": "2",
    "CACHE__MAX_MIB": "1",
    "SANDBOX__WALL_S": "3",
    "SANDBOX__CPU_S": "2",
    "SANDBOX__MEMORY_MIB": "100",
    "SANDBOX__PROCESSES": "9",
    "SANDBOX__WORKSPACE_MIB": "9",
    "SANDBOX__WORKSPACE_FILES": "99",
    "SANDBOX__TMP_MIB": "9",
    "SANDBOX__OUTPUT_KEPT_KIB": "9",
    "SANDBOX__OUTPUT_KILLED_KIB": "99",
    "SANDBOX__ARTIFACT_MIB": "3",
    "SANDBOX__ARTIFACT_FILES": "9",
    "SANDBOX__CPUS": "0.5",
}


# The official models of what each route answers, by the start of the place.
PROTOCOLS: dict[str, tuple[Any, ...]] = {
    "POST /v1/chat/completions": (
        openai.types.chat.ChatCompletion, openai.types.chat.ChatCompletionChunk,
    ),
    "POST /v1/completions": (openai.types.Completion,),
    "POST /v1/embeddings": (openai.types.CreateEmbeddingResponse,),
    "GET /v1/models": (openai.types.Model, anthropic.types.ModelInfo),
    "POST /v1/responses": (
        openai.types.responses.Response, openai.types.responses.ResponseStreamEvent,
        openai.types.responses.InputTokenCountResponse,
    ),
    "POST /v1/messages": (anthropic.types.Message, anthropic.types.RawMessageStreamEvent),
    "errors of Anthropic": (anthropic.types.ErrorResponse,),
}  # fmt: skip
# What was always the same once; none of it may be declared constant.
ONCE_CONSTANT = {"cost_estimate", "credits", "persona_router", "provider_breakdown", "parameters"}


def is_discriminator(route: str, path: str, value: str) -> bool:
    """Whether a client of OpenAI's or Anthropic's API knows the object by this field."""
    models = [each for start, each in PROTOCOLS.items() if route.startswith(start)]
    name = path.rpartition(".")[2]
    return any((name, value) in discriminators(*each) for each in models) or (
        (route, path, value) == ("GET /v1/models", "object", '"list"')
    )


def test_constants_when_declared_then_few_and_none_of_those_that_were_wrong() -> None:
    assert len(CONSTANTS) <= MAX_CONSTANTS
    assert all(each.reason for each in CONSTANTS)
    names = {name for each in CONSTANTS for path in each.fields for name in path.split(".")}
    assert not names & ONCE_CONSTANT


async def test_fields_when_requests_vary_then_so_do_their_values(tmp_path: Path) -> None:
    fields = FieldValues()
    await _call_first_server(fields, tmp_path / "first")
    await _call_small_server(fields, tmp_path / "small")
    await varied.call_with_a_broken_store(fields, tmp_path)
    unexplained = [
        f"{route}: {path} is always {value[:80]}"
        for route, path, value in fields.constants()
        if not is_discriminator(route, path, value)
        and not any(each.matches(route, path) for each in CONSTANTS)
    ]
    assert not unexplained, "\n".join(unexplained)


async def _call_first_server(fields: FieldValues, folder: Path) -> None:
    """A server with all that can be had: models, upstream, prices, a sandbox."""
    async with fake_upstream() as upstream:
        config = CONFIG.format(url=upstream.url)
        languages = {"MONKEY_CODER__SANDBOX__LANGUAGES": "python,c"}
        async with varied_recorder.served(folder, config, languages) as (server, http):
            recorder = Recorder(fields, http, upstream)
            await varied_recorder.add_users(server, USERS)
            await varied.call_accounts(recorder, [*USERS])
            for step in (
                varied.call_operations,
                varied.call_catalog,
                varied_models.call_models,
                varied_runs.call_tasks,
                varied_runs.call_sandbox,
                varied.call_catalog,
                varied.call_errors,
                varied.call_operations_under_load,
            ):
                await step(recorder)
            await varied.call_after_a_crash(recorder, server)


async def _call_small_server(fields: FieldValues, folder: Path) -> None:
    """A server without models and sandbox, in production, whose limits are low."""
    small = {f"MONKEY_CODER__{name}": value for name, value in SMALL.items()}
    async with varied_recorder.served(folder, env=small, models=False) as (server, http):
        recorder = Recorder(fields, http)
        await varied_recorder.add_users(server, {"alice": ("admin", "free")})
        await varied.call_accounts(recorder, ["alice"])
        await varied.call_operations(recorder, "alice")
        await varied.call_catalog(recorder)
        await recorder.call("GET /api/v1/sandbox/languages?wait=true")
