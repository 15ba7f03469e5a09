"""The table `models`: the registered GGUF files."""

from msgspec import Struct, structs

from appliance.store.database import Connection, Transaction

_SELECT = """
    SELECT alias, path, in_place, sha256, size, architecture, parameters, context_tokens,
           quantization, source, is_default, created_at, kv_bytes_per_token, embeds, fills_in,
           checked_mtime_ns
    FROM models
"""


class ModelRow(Struct, frozen=True):
    """`path` is relative to the models folder, or absolute if `in_place`.

    `checked_mtime_ns` is the modification time of the file when its SHA-256 was verified.
    """

    alias: str
    path: str
    in_place: bool
    sha256: str
    size: int
    architecture: str
    parameters: int
    context_tokens: int
    quantization: str
    source: str
    is_default: bool
    created_at: float
    kv_bytes_per_token: int
    embeds: bool
    fills_in: bool
    checked_mtime_ns: int


async def list_all(connection: Connection) -> list[ModelRow]:
    """Every model, the default first, then by alias."""
    return await connection.all(ModelRow, f"{_SELECT} ORDER BY is_default DESC, alias")


async def get(connection: Connection, alias: str) -> ModelRow | None:
    return await connection.one(ModelRow, f"{_SELECT} WHERE alias = :alias", {"alias": alias})


async def get_default(connection: Connection) -> ModelRow | None:
    return await connection.one(ModelRow, f"{_SELECT} WHERE is_default = 1")


async def insert(tx: Transaction, model: ModelRow) -> bool:
    """Insert a model, not as the default; False if the alias is taken."""
    changed = await tx.execute(
        """
        INSERT INTO models
            (alias, path, in_place, sha256, size, architecture, parameters, context_tokens,
             quantization, source, is_default, created_at, kv_bytes_per_token, embeds, fills_in,
             checked_mtime_ns)
        VALUES (:alias, :path, :in_place, :sha256, :size, :architecture, :parameters,
                :context_tokens, :quantization, :source, 0, :created_at, :kv_bytes_per_token,
                :embeds, :fills_in, :checked_mtime_ns)
        ON CONFLICT (alias) DO NOTHING
        """,
        structs.asdict(model),
    )
    return changed == 1


async def delete(tx: Transaction, alias: str) -> None:
    await tx.execute("DELETE FROM models WHERE alias = :alias", {"alias": alias})


async def set_default(tx: Transaction, alias: str) -> None:
    """Make this model the only default."""
    await tx.execute("UPDATE models SET is_default = 0 WHERE is_default = 1")
    await tx.execute("UPDATE models SET is_default = 1 WHERE alias = :alias", {"alias": alias})


async def elect_default(tx: Transaction) -> str | None:
    """Make the oldest model the default if there is none; returns the default's alias."""
    await tx.execute(
        """
        UPDATE models SET is_default = 1
        WHERE id = (SELECT min(id) FROM models)
          AND NOT EXISTS (SELECT 1 FROM models WHERE is_default = 1)
        """
    )
    return await tx.scalar("SELECT alias FROM models WHERE is_default = 1")


async def update_checked(tx: Transaction, model: ModelRow) -> bool:
    """Store the results of an integrity check: modification time and header values.

    False if the model was removed or replaced by another file.
    """
    changed = await tx.execute(
        """
        UPDATE models
        SET checked_mtime_ns = :checked_mtime_ns, kv_bytes_per_token = :kv_bytes_per_token,
            embeds = :embeds, fills_in = :fills_in
        WHERE alias = :alias AND sha256 = :sha256
        """,
        {
            "alias": model.alias,
            "sha256": model.sha256,
            "checked_mtime_ns": model.checked_mtime_ns,
            "kv_bytes_per_token": model.kv_bytes_per_token,
            "embeds": model.embeds,
            "fills_in": model.fills_in,
        },
    )
    return changed == 1
