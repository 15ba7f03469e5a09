"""Counts uses of API keys in memory, so that a request does not wait for the disk."""

from appliance.store.database import Database
from appliance.store.tables import api_keys
from appliance.store.tables.api_keys import KeyRow, KeyUse


class KeyUsage:
    """Uses not yet stored, one entry per key.

    A crash loses the uses since the last `flush`. They are statistics only; no limit
    depends on them.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._uses: dict[int, KeyUse] = {}

    def record(self, key_id: int, at: float, count: int = 1) -> None:
        """Add `count` uses of a key, the latest at `at` (epoch seconds)."""
        use = self._uses.get(key_id)
        if use:
            count, at = use.count + count, max(use.last_used_at, at)
        self._uses[key_id] = KeyUse(key_id, count, at)

    def totals(self, row: KeyRow) -> tuple[int, float | None]:
        """(use count, time of the last use) of a key, including uses not yet stored."""
        use = self._uses.get(row.id)
        if use is None:
            return row.use_count, row.last_used_at
        return row.use_count + use.count, max(use.last_used_at, row.last_used_at or 0.0)

    async def flush(self) -> None:
        """Store all uses in one transaction; if that fails, keep them for the next call."""
        if not self._uses:
            return
        uses, self._uses = self._uses, {}
        try:
            async with self._db.write() as tx:
                await api_keys.add_uses(tx, list(uses.values()))
        except BaseException:
            for use in uses.values():
                self.record(use.key_id, use.last_used_at, use.count)
            raise
