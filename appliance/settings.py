"""The settings of a box, each with its default; config.load fills them."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field, structs

Port = Annotated[int, Meta(ge=0, le=65535)]
Positive = Annotated[int, Meta(ge=1)]
Count = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(gt=0)]


class ServerSettings(Struct, frozen=True, forbid_unknown_fields=True):
    host: str = "127.0.0.1"
    port: Port = 8000
    cors_origins: tuple[str, ...] = ()
    max_body_bytes: Positive = 16 * 1024 * 1024
    docs: bool = True
    metrics_public: bool = True
    shutdown_grace_s: Seconds = 20.0


class DataSettings(Struct, frozen=True, forbid_unknown_fields=True):
    dir: str = ""
    database_url: str = ""


class LogSettings(Struct, frozen=True, forbid_unknown_fields=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class AuthSettings(Struct, frozen=True, forbid_unknown_fields=True):
    jwt_secret_key: str = ""
    access_token_minutes: Positive = 30
    refresh_token_days: Positive = 30
    dev_keys: bool = False
    dev_key_hours: Positive = 24
    login_attempts_per_account: Positive = 10
    login_attempts_per_address: Positive = 30
    login_window_s: Seconds = 900.0


class SchedulerSettings(Struct, frozen=True, forbid_unknown_fields=True):
    workers: Positive = 4
    queue_limit: Positive = 200
    task_timeout_s: Seconds = 600.0
    max_attempts: Positive = 5
    ageing_s: Seconds = 30.0


class ModelSettings(Struct, frozen=True, forbid_unknown_fields=True):
    default: str = ""
    preload: bool = True
    context_tokens: Count = 0
    threads: Count = 0
    max_sequences: Annotated[int, Meta(ge=1, le=64)] = 8
    queue_limit: Positive = 64
    load_timeout_s: Seconds = 120.0


class AgentSettings(Struct, frozen=True, forbid_unknown_fields=True):
    branches: Annotated[int, Meta(ge=0, le=16)] = 0
    max_branches: Annotated[int, Meta(ge=1, le=16)] = 8
    repair_rounds: Annotated[int, Meta(ge=0, le=5)] = 1
    max_output_tokens: Positive = 1024
    temperature: Annotated[float, Meta(ge=0, le=2)] = 0.6


class SandboxSettings(Struct, frozen=True, forbid_unknown_fields=True):
    backend: str = "auto"
    require: Literal["", "namespaces", "gvisor", "microvm"] = ""
    parallel_runs: Positive = 4
    wall_s: Seconds = 10.0
    cpu_s: Seconds = 10.0
    memory_mib: Annotated[int, Meta(ge=32)] = 256
    processes: Annotated[int, Meta(ge=1)] = 64
    workspace_mib: Positive = 64
    tmp_mib: Positive = 32
    output_kept_kib: Positive = 1024
    output_killed_kib: Positive = 16384


class LimitSettings(Struct, frozen=True, forbid_unknown_fields=True):
    prompt_bytes: Positive = 1024 * 1024
    files: Positive = 1000
    file_bytes: Positive = 4 * 1024 * 1024
    requests_per_minute: Positive = 100
    burst: Positive = 20


class PluginSettings(Struct, frozen=True, forbid_unknown_fields=True):
    path: str = ""
    disabled: tuple[str, ...] = ()


class ProviderSettings(Struct, frozen=True, forbid_unknown_fields=True):
    api_key: str = ""
    base_url: str = ""


class ProvidersSettings(Struct, frozen=True, forbid_unknown_fields=True):
    openai: ProviderSettings = ProviderSettings()
    anthropic: ProviderSettings = ProviderSettings()
    google: ProviderSettings = ProviderSettings()


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    server: ServerSettings = ServerSettings()
    data: DataSettings = DataSettings()
    log: LogSettings = LogSettings()
    auth: AuthSettings = AuthSettings()
    scheduler: SchedulerSettings = SchedulerSettings()
    models: ModelSettings = ModelSettings()
    agent: AgentSettings = AgentSettings()
    sandbox: SandboxSettings = SandboxSettings()
    limits: LimitSettings = LimitSettings()
    plugins: PluginSettings = PluginSettings()
    providers: ProvidersSettings = field(default_factory=ProvidersSettings)


class Setting(Struct, frozen=True):
    """One setting: its dotted name ("server.port"), its type and its default."""

    name: str
    type: Any
    default: Any

    @property
    def secret(self) -> bool:
        return self.name.endswith("_key")

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return "MONKEY_CODER__" + self.name.upper().replace(".", "__")


def known_settings() -> dict[str, Setting]:
    """Every setting by its dotted name, in the order of this file."""
    return {setting.name: setting for setting in _leaves(Settings(), "")}


def _leaves(section: Struct, prefix: str) -> Iterator[Setting]:
    for item in structs.fields(section):
        value = getattr(section, item.name)
        if isinstance(value, Struct):
            yield from _leaves(value, f"{prefix}{item.name}.")
        else:
            yield Setting(prefix + item.name, item.type, value)
