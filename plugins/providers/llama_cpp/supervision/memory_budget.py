"""The memory budget that all engines share; idle engines are unloaded to make space."""

import asyncio
from collections.abc import Callable, Iterable

from appliance.domain.models import ModelFile
from appliance.spi import host
from plugins.providers.llama_cpp.host import kv_sizing
from plugins.providers.llama_cpp.supervision.engine_slot import EngineSlot
from plugins.providers.llama_cpp.supervision.engine_types import (
    InsufficientMemory,
    MemoryReservation,
)
from plugins.providers.llama_cpp.supervision.load_profiles import LoadProfiles
from plugins.providers.llama_cpp.supervision.options import Options

_MIB = 1024 * 1024
# Share of the available memory for engines; the rest is for the server and the sandbox.
_ENGINES_SHARE = 0.75


class MemoryBudget:
    """Reserves memory for one model at a time, unloading the longest idle engines first."""

    def __init__(
        self,
        options: Options,
        profiles: LoadProfiles,
        slots: Callable[[], Iterable[EngineSlot]],
    ) -> None:
        self._options, self._profiles, self._slots = options, profiles, slots
        self._lock = asyncio.Lock()

    async def reserve(self, file: ModelFile) -> MemoryReservation:
        """Memory for a model that is not loaded. Raises InsufficientMemory."""
        async with self._lock:
            others = [slot for slot in self._slots() if slot.file.alias != file.alias]
            free = self.total_bytes() - sum(slot.memory_bytes for slot in others)
            idle = sorted((slot for slot in others if slot.idle), key=lambda slot: slot.last_used)
            max_free = free + sum(slot.memory_bytes for slot in idle)
            needed = await self._needed_bytes(file, max_free)
            if needed > max_free:
                raise _insufficient_memory(needed, max_free, busy=len(others) - len(idle))
            for slot in idle:
                if free >= needed:
                    break
                free += slot.memory_bytes
                await slot.supervisor.stop()
            return MemoryReservation(usable_bytes=free, reserved_bytes=needed)

    def total_bytes(self) -> int:
        """The budget of all engines together, including what they already use."""
        if self._options.memory_mib:
            return self._options.memory_mib * _MIB
        own = sum(slot.supervisor.resident.own for slot in self._slots())
        return int(_ENGINES_SHARE * (host.available_memory() + own))

    async def _needed_bytes(self, file: ModelFile, max_free: int) -> int:
        """What the last load took; else the estimate for the preferred or the smallest size."""
        last = await self._profiles.find(file)
        if last is not None and last.memory_bytes <= max_free:
            return last.memory_bytes
        preferred = self._estimate(file, max_free)
        return preferred if preferred <= max_free else self._estimate(file, 0)

    def _estimate(self, file: ModelFile, free: int) -> int:
        return kv_sizing.estimate_memory_bytes(
            file=file.size,
            cell_bytes=0 if file.embeds else file.kv_bytes_per_token,
            training_context=file.context_tokens,
            requested_context=self._options.context_tokens,
            sequences=self._options.max_sequences,
            free_bytes=free,
        )


def _insufficient_memory(needed: int, free: int, *, busy: int) -> InsufficientMemory:
    others = f" (other models in use: {busy}): wait, or" if busy else ":"
    return InsufficientMemory(
        f"it needs {_mib(needed)} of memory, {_mib(max(0, free))} are available{others} "
        "choose a smaller model or quantization, lower models.context_tokens, or raise "
        "models.memory_mib",
        details={"needed_bytes": needed, "free_bytes": max(0, free)},
    )


def _mib(count: int) -> str:
    return f"{-(-count // _MIB)} MiB"
