"""The table `model_probes`: measurements of a model's last load, one row per model."""

from msgspec import structs

from appliance.domain.models import ModelProbe
from appliance.store.database import Connection, Transaction
from appliance.store.rows import to_json


async def get(connection: Connection, alias: str) -> ModelProbe | None:
    return await connection.one(
        ModelProbe,
        """
        SELECT key, threads, chunk, prefill_tokens_per_second, decode_tokens_per_second,
               memory_bytes, load_seconds, measured_at, row_costs
        FROM model_probes
        WHERE model_id = (SELECT id FROM models WHERE alias = :alias)
        """,
        {"alias": alias},
    )


async def store(tx: Transaction, alias: str, probe: ModelProbe) -> None:
    """Replace the measurements of a model; does nothing if the model does not exist."""
    await tx.execute(
        """
        INSERT INTO model_probes
            (model_id, key, threads, chunk, prefill_tokens_per_second,
             decode_tokens_per_second, memory_bytes, load_seconds, measured_at, row_costs)
        SELECT id, :key, :threads, :chunk, :prefill_tokens_per_second,
               :decode_tokens_per_second, :memory_bytes, :load_seconds, :measured_at, :row_costs
        FROM models WHERE alias = :alias
        ON CONFLICT (model_id) DO UPDATE SET
            key = excluded.key, threads = excluded.threads, chunk = excluded.chunk,
            prefill_tokens_per_second = excluded.prefill_tokens_per_second,
            decode_tokens_per_second = excluded.decode_tokens_per_second,
            memory_bytes = excluded.memory_bytes, load_seconds = excluded.load_seconds,
            measured_at = excluded.measured_at, row_costs = excluded.row_costs
        """,
        {**structs.asdict(probe), "row_costs": to_json(probe.row_costs), "alias": alias},
    )
