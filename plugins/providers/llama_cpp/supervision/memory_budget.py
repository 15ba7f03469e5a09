"""The memory that all engines share: who gets how much, and who has to go for it."""

import asyncio
from collections.abc import Callable, Iterable

from appliance.domain.models import ModelFile
from plugins.providers.llama_cpp.host import host_resources, kv_sizing
from plugins.providers.llama_cpp.supervision.engine_slot import Tenant
from plugins.providers.llama_cpp.supervision.engine_types import Claim, NoRoom
from plugins.providers.llama_cpp.supervision.load_profiles import Records
from plugins.providers.llama_cpp.supervision.options import Options

_MIB = 1024 * 1024
# Of what the machine has left for engines; the rest is the server's and the sandbox's.
_SHARE = 0.75


class Memory:
    """Makes room for one model at a time, unloading those that were idle the longest."""

    def __init__(
        self, options: Options, records: Records, tenants: Callable[[], Iterable[Tenant]]
    ) -> None:
        self._options, self._records, self._tenants = options, records, tenants
        self._one_at_a_time = asyncio.Lock()

    async def make_room(self, file: ModelFile) -> Claim:
        """Memory for a model that is not loaded. Raises NoRoom if it can't be had."""
        async with self._one_at_a_time:
            others = [tenant for tenant in self._tenants() if tenant.file.alias != file.alias]
            free = self.budget() - sum(tenant.held_bytes for tenant in others)
            idle = sorted(
                (tenant for tenant in others if tenant.idle), key=lambda tenant: tenant.last_used
            )
            most = free + sum(tenant.held_bytes for tenant in idle)
            needed = await self._needed(file, most)
            if needed > most:
                raise _too_large(needed, most, busy=len(others) - len(idle))
            for tenant in idle:
                if free >= needed:
                    break
                free += tenant.held_bytes
                await tenant.supervisor.stop()
            return Claim(granted=free, reserved=needed)

    def budget(self) -> int:
        """Bytes for all engines together, those that they have already included."""
        if self._options.memory_mib:
            return self._options.memory_mib * _MIB
        own = sum(tenant.supervisor.resident.own for tenant in self._tenants())
        return int(_SHARE * (host_resources.available_bytes() + own))

    async def _needed(self, file: ModelFile, most: int) -> int:
        """What the last load took; by estimate what it would like, or what it can do with."""
        last = await self._records.of(file)
        if last is not None and last.memory_bytes <= most:
            return last.memory_bytes
        wanted = self._estimate(file, most)
        return wanted if wanted <= most else self._estimate(file, 0)

    def _estimate(self, file: ModelFile, free: int) -> int:
        return kv_sizing.needed_bytes(
            file=file.size,
            cell_bytes=0 if file.embeds else file.kv_bytes_per_token,
            trained=file.context_tokens,
            asked=self._options.context_tokens,
            sequences=self._options.max_sequences,
            free_bytes=free,
        )


def _too_large(needed: int, free: int, *, busy: int) -> NoRoom:
    held = f" ({busy} other models are at work: wait, or" if busy else " ("
    return NoRoom(
        f"it needs {_mib(needed)} of memory, and {_mib(max(0, free))} can be had for it{held} "
        "choose a smaller model or quantization, lower models.context_tokens, or raise "
        "models.memory_mib)",
        details={"needed_bytes": needed, "free_bytes": max(0, free)},
    )


def _mib(count: int) -> str:
    return f"{-(-count // _MIB)} MiB"
