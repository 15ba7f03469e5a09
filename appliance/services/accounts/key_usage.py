"""Counts the uses of API keys in memory, so that a request does not wait for the disk."""

from appliance.store.sqlite.database import Database
from appliance.store.tables import api_keys
from appliance.store.tables.api_keys import KeyRow, KeyUse


class KeyUsage:
    """Uses that are not yet in the database: one entry per key, so no more than there are keys.

    A crash loses what was counted since the last `flush`; nothing depends on it.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._uses: dict[int, KeyUse] = {}

    def note(self, key_id: int, at: float, count: int = 1) -> None:
        """A key was used `count` times, the last time at `at` (epoch seconds)."""
        known = self._uses.get(key_id)
        if known:
            count, at = known.count + count, max(known.last_used_at, at)
        self._uses[key_id] = KeyUse(key_id, count, at)

    def totals(self, row: KeyRow) -> tuple[int, float | None]:
        """How often a key was used and when last, with what is not yet stored."""
        use = self._uses.get(row.id)
        if use is None:
            return row.use_count, row.last_used_at
        return row.use_count + use.count, max(use.last_used_at, row.last_used_at or 0.0)

    async def flush(self) -> None:
        """Store what was counted, in one transaction; what can't be stored is kept."""
        if not self._uses:
            return
        uses, self._uses = self._uses, {}
        try:
            async with self._db.write() as tx:
                await api_keys.add_uses(tx, list(uses.values()))
        except BaseException:
            for use in uses.values():
                self.note(use.key_id, use.last_used_at, use.count)
            raise
