"""The settings with their defaults; `config.loader.load` fills them."""

import re
from collections.abc import Iterator
from functools import reduce
from typing import Annotated, Any, Literal, get_args, get_origin

from msgspec import Meta, Struct, field, structs

from appliance.domain.sandbox_limits import setting_default as _default
from appliance.domain.sandbox_limits import setting_range as _range

Port = Annotated[int, Meta(ge=0, le=65535)]
Positive = Annotated[int, Meta(ge=1)]
Count = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]


class ServerSettings(Struct, frozen=True, forbid_unknown_fields=True):
    host: str = "127.0.0.1"
    port: Port = 8000
    cors_origins: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    max_body_bytes: Positive = 16 * 1024 * 1024
    connections: Annotated[int, Meta(ge=16, le=65536)] = 4096
    connections_per_address: Positive = 256
    header_timeout_s: Seconds = 10.0
    body_timeout_s: Seconds = 10.0
    body_bytes_per_s: Positive = 1024
    write_timeout_s: Seconds = 60.0
    idle_timeout_s: Seconds = 120.0
    websocket_message_bytes: Annotated[int, Meta(ge=1024, le=16 * 1024 * 1024)] = 4 * 1024 * 1024
    docs: bool = True
    metrics_public: bool = True
    shutdown_grace_s: Seconds = 20.0


class DataSettings(Struct, frozen=True, forbid_unknown_fields=True):
    dir: str = ""
    database_url: str = ""
    task_retention_days: NotNegative = 90.0
    failed_task_retention_days: NotNegative = 7.0


class LogSettings(Struct, frozen=True, forbid_unknown_fields=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"
    access: bool = True


class AuthSettings(Struct, frozen=True, forbid_unknown_fields=True):
    jwt_secret_key: str = ""
    access_token_minutes: Positive = 30
    refresh_token_days: Positive = 30
    dev_keys: bool = False
    dev_key_hours: Positive = 24
    login_attempts_per_account: Positive = 10
    login_attempts_everywhere: Positive = 50
    login_attempts_per_address: Positive = 30
    login_window_s: Seconds = 900.0
    login_max_delay_s: Seconds = 60.0


class SchedulerSettings(Struct, frozen=True, forbid_unknown_fields=True):
    workers: Positive = 4
    queue_limit: Positive = 200
    queue_limit_per_user: Positive = 100
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
    load_wait_s: Seconds = 30.0
    idle_unload_s: Annotated[float, Meta(ge=0)] = 0.0
    memory_mib: Count = 0
    gpu_layers: Annotated[int, Meta(ge=-1)] = -1


class AgentSettings(Struct, frozen=True, forbid_unknown_fields=True):
    branches: Annotated[int, Meta(ge=0, le=16)] = 0
    max_branches: Annotated[int, Meta(ge=1, le=16)] = 8
    repair_rounds: Annotated[int, Meta(ge=0, le=5)] = 1
    max_output_tokens: Positive = 1024
    temperature: Annotated[float, Meta(ge=0, le=2)] = 0.6


class SandboxSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[sandbox]. Range and default of the limits of a run come from domain.sandbox_limits."""

    backend: str = "auto"
    require: Literal["", "namespaces", "gvisor", "microvm"] = ""
    parallel_runs: Positive = 4
    warm: Annotated[int, Meta(ge=0, le=16)] = 2
    wall_s: Annotated[float, _range("wall_s")] = _default("wall_s")
    cpu_s: Annotated[float, _range("cpu_s")] = _default("cpu_s")
    memory_mib: Annotated[int, _range("memory_mib")] = _default("memory_mib")
    processes: Annotated[int, _range("processes")] = _default("processes")
    workspace_mib: Annotated[int, _range("workspace_mib")] = _default("workspace_mib")
    workspace_files: Annotated[int, _range("workspace_files")] = _default("workspace_files")
    tmp_mib: Annotated[int, _range("tmp_mib")] = _default("tmp_mib")
    output_kept_kib: Annotated[int, _range("output_kept_kib")] = _default("output_kept_kib")
    output_killed_kib: Annotated[int, _range("output_killed_kib")] = _default("output_killed_kib")
    artifact_mib: Annotated[int, _range("artifact_mib")] = _default("artifact_mib")
    artifact_files: Annotated[int, _range("artifact_files")] = _default("artifact_files")
    cpus: Annotated[float, _range("cpus")] = _default("cpus")
    queue_limit: Positive = 32
    queue_per_user: Positive = 8
    runs_per_hour: Annotated[int, Meta(ge=0)] = 0
    sessions: Annotated[int, Meta(ge=0, le=10_000)] = 32
    sessions_per_user: Annotated[int, Meta(ge=0, le=1000)] = 4
    session_mib: Annotated[int, Meta(ge=1, le=65_536)] = 64
    session_files: Annotated[int, Meta(ge=16, le=1_000_000)] = 4096
    session_lifetime_s: Annotated[float, Meta(ge=1, le=31_536_000)] = 86_400.0
    session_idle_s: Annotated[float, Meta(ge=1, le=31_536_000)] = 3600.0
    session_queue: Annotated[int, Meta(ge=1, le=1000)] = 8
    toolchains: tuple[str, ...] = ()
    languages: tuple[str, ...] = ("*",)
    runsc: str = ""
    microvm_kernel: str = ""
    microvm_emulation: bool = False
    rootfs: str = ""
    rootfs_mib: Positive = 8192
    rootfs_files: Positive = 500_000


class LimitSettings(Struct, frozen=True, forbid_unknown_fields=True):
    prompt_bytes: Positive = 1024 * 1024
    messages: Positive = 10_000
    files: Positive = 1000
    file_bytes: Positive = 4 * 1024 * 1024
    stored_bytes_per_user: Positive = 2 * 1024 * 1024 * 1024
    requests_per_minute: Positive = 100
    burst: Positive = 20


class PluginSettings(Struct, frozen=True, forbid_unknown_fields=True):
    path: str = ""
    disabled: tuple[str, ...] = ()
    settings: dict[str, dict[str, Any]] = {}


class ProviderSettings(Struct, frozen=True, forbid_unknown_fields=True):
    api_key: str = ""
    base_url: str = ""
    models: tuple[str, ...] = ()
    connect_timeout_s: Seconds = 10.0
    read_timeout_s: Seconds = 180.0
    timeout_s: Seconds = 600.0
    ca_file: str = ""
    proxy: str = ""


class UpstreamSettings(ProviderSettings, frozen=True, forbid_unknown_fields=True):
    kind: Literal["openai", "anthropic", "google"] = "openai"


class ProvidersSettings(Struct, frozen=True, forbid_unknown_fields=True):
    openai: ProviderSettings = ProviderSettings()
    anthropic: ProviderSettings = ProviderSettings()
    google: ProviderSettings = ProviderSettings()
    upstreams: dict[str, UpstreamSettings] = {}


class GatewaySettings(Struct, frozen=True, forbid_unknown_fields=True):
    deadline_s: Seconds = 600.0
    tries: Positive = 3
    backoff_s: Seconds = 0.25
    longest_pause_s: Seconds = 10.0
    breaker_failures: Positive = 5
    breaker_window_s: Seconds = 30.0
    breaker_pause_s: Seconds = 20.0
    queue_limit: Positive = 256
    queue_limit_per_user: Positive = 64
    ageing_s: Seconds = 10.0
    remote_concurrency: Positive = 64
    hedge_after_s: NotNegative = 0.0


class CacheSettings(Struct, frozen=True, forbid_unknown_fields=True):
    max_entries: Count = 1000
    max_mib: Positive = 64
    max_age_s: Seconds = 3600.0
    shared: bool = False


class PolicySettings(Struct, frozen=True, forbid_unknown_fields=True):
    local_only_labels: tuple[str, ...] = ()
    local_only_users: tuple[str, ...] = ()
    denied_providers: tuple[str, ...] = ()


class RouteSettings(Struct, frozen=True, forbid_unknown_fields=True):
    models: tuple[str, ...] = ()
    weights: tuple[NotNegative, ...] = ()


class PriceSettings(Struct, frozen=True, forbid_unknown_fields=True):
    input: NotNegative = 0.0
    output: NotNegative = 0.0
    cached: float = -1.0


class QuotaSettings(Struct, frozen=True, forbid_unknown_fields=True):
    requests_per_minute: Count = 0
    tokens_per_minute: Count = 0
    parallel: Count = 0
    spend_per_day: NotNegative = 0.0


class ShareSettings(Struct, frozen=True, forbid_unknown_fields=True):
    weight: Annotated[float, Meta(ge=0.01, le=100)] = 1.0


class PlanSandboxSettings(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Overrides of [sandbox] for a plan; `parallel_runs` and `queue_per_user` apply per user."""

    parallel_runs: Positive | None = None
    wall_s: Annotated[float, _range("wall_s")] | None = None
    cpu_s: Annotated[float, _range("cpu_s")] | None = None
    memory_mib: Annotated[int, _range("memory_mib")] | None = None
    processes: Annotated[int, _range("processes")] | None = None
    workspace_mib: Annotated[int, _range("workspace_mib")] | None = None
    workspace_files: Annotated[int, _range("workspace_files")] | None = None
    tmp_mib: Annotated[int, _range("tmp_mib")] | None = None
    output_kept_kib: Annotated[int, _range("output_kept_kib")] | None = None
    output_killed_kib: Annotated[int, _range("output_killed_kib")] | None = None
    artifact_mib: Annotated[int, _range("artifact_mib")] | None = None
    artifact_files: Annotated[int, _range("artifact_files")] | None = None
    cpus: Annotated[float, _range("cpus")] | None = None
    queue_per_user: Positive | None = None
    runs_per_hour: Annotated[int, Meta(ge=0)] | None = None
    sessions_per_user: Annotated[int, Meta(ge=0, le=1000)] | None = None
    session_mib: Annotated[int, Meta(ge=1, le=65_536)] | None = None
    session_files: Annotated[int, Meta(ge=16, le=1_000_000)] | None = None
    session_lifetime_s: Annotated[float, Meta(ge=1, le=31_536_000)] | None = None
    session_idle_s: Annotated[float, Meta(ge=1, le=31_536_000)] | None = None


class PlanSettings(Struct, frozen=True, forbid_unknown_fields=True):
    sandbox: PlanSandboxSettings = PlanSandboxSettings()


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
    gateway: GatewaySettings = GatewaySettings()
    cache: CacheSettings = CacheSettings()
    policy: PolicySettings = PolicySettings()
    routes: dict[str, RouteSettings] = {}
    prices: dict[str, PriceSettings] = {}
    quotas: dict[str, QuotaSettings] = {}
    shares: dict[str, ShareSettings] = {}
    plans: dict[str, PlanSettings] = {}


class Setting(Struct, frozen=True):
    """One setting: dotted name as in TOML ("server.port"), type and default."""

    name: str
    type: Any
    default: Any

    @property
    def secret(self) -> bool:
        return self.name.endswith("_key")

    @property
    def variable(self) -> str:
        """Name of its environment variable."""
        words = (re.sub(r"\W", "_", part) for part in split_name(self.name))
        return "__".join(("MONKEY_CODER", *words)).upper()


class Table(Struct, frozen=True):
    """A table of sections [prefix.NAME], where NAME is the administrator's; each is an `entry`."""

    prefix: str
    entry: type[Struct]

    def settings(self, name: str) -> dict[str, Setting]:
        """The settings of the entry `name`, by key."""
        section = f"{self.prefix}.{_quote_key(name)}."
        fields = structs.fields(self.entry())
        return {f.name: Setting(section + f.name, f.type, f.default) for f in fields}


def known_settings() -> dict[str, Setting]:
    """Every setting outside tables by dotted name, in the order of this file."""
    return {setting.name: setting for setting in _iter_settings(Settings(), "")}


def known_tables() -> dict[str, Table]:
    """Every table by dotted name, in the order of this file."""
    return {table.prefix: table for table in _iter_tables(Settings(), "")}


def iter_values(settings: Settings) -> Iterator[tuple[Setting, Any]]:
    """Each setting with its effective value; table entries come last."""
    for setting in known_settings().values():
        yield setting, reduce(getattr, setting.name.split("."), settings)
    for table in known_tables().values():
        entries: dict[str, Struct] = reduce(getattr, table.prefix.split("."), settings)
        for name, entry in entries.items():
            for key, setting in table.settings(name).items():
                yield setting, getattr(entry, key)


def split_name(name: str) -> list[str]:
    """The keys of a dotted name, without quotes."""
    return [part.strip('"') for part in re.findall(r'"[^"]*"|[^.]+', name)]


def _iter_settings(section: Struct, prefix: str) -> Iterator[Setting]:
    for item in structs.fields(section):
        value = getattr(section, item.name)
        if isinstance(value, Struct):
            yield from _iter_settings(value, f"{prefix}{item.name}.")
        elif not _table_entry_type(item.type):
            yield Setting(prefix + item.name, item.type, value)


def _iter_tables(section: Struct, prefix: str) -> Iterator[Table]:
    for item in structs.fields(section):
        value = getattr(section, item.name)
        if isinstance(value, Struct):
            yield from _iter_tables(value, f"{prefix}{item.name}.")
        elif entry := _table_entry_type(item.type):
            yield Table(prefix + item.name, entry)


def _table_entry_type(kind: Any) -> type[Struct] | None:
    """The value type of a `dict[str, Struct]`; None for any other type."""
    entry = get_args(kind)[1] if get_origin(kind) is dict else None
    return entry if isinstance(entry, type) and issubclass(entry, Struct) else None


def _quote_key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else f'"{name}"'
