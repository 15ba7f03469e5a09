"""The table `models`: the GGUF files registered on this box."""

from msgspec import Struct, structs

from appliance.store.sqlite.database import Connection, Transaction

_SELECT = """
    SELECT alias, path, in_place, sha256, size, architecture, parameters, context_tokens,
           quantization, source, is_default, created_at, kv_bytes_per_token, embeds, fills_in,
           checked_mtime_ns
    FROM models
"""


class StoredModel(Struct, frozen=True):
    """A row: `path` is a name in the box's models folder unless `in_place`.

    `checked_mtime_ns` is the modification time of the file that has this SHA-256.
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


async def all_models(connection: Connection) -> list[StoredModel]:
    """Every model, the default first, then by alias."""
    return await connection.all(StoredModel, f"{_SELECT} ORDER BY is_default DESC, alias")


async def get(connection: Connection, alias: str) -> StoredModel | None:
    return await connection.one(StoredModel, f"{_SELECT} WHERE alias = :alias", {"alias": alias})


async def default(connection: Connection) -> StoredModel | None:
    return await connection.one(StoredModel, f"{_SELECT} WHERE is_default = 1")


async def insert(tx: Transaction, model: StoredModel) -> bool:
    """Whether it was added: not if the alias is taken. It is not the default yet."""
    row = structs.asdict(model)
    row |= {name: int(row[name]) for name in ("in_place", "embeds", "fills_in")}
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
        row,
    )
    return changed == 1


async def delete(tx: Transaction, alias: str) -> None:
    await tx.execute("DELETE FROM models WHERE alias = :alias", {"alias": alias})


async def set_default(tx: Transaction, alias: str) -> None:
    """Make this one the default, and only this one."""
    await tx.execute("UPDATE models SET is_default = 0 WHERE is_default = 1")
    await tx.execute("UPDATE models SET is_default = 1 WHERE alias = :alias", {"alias": alias})


async def elect_default(tx: Transaction) -> str | None:
    """Where there is no default, make the oldest model the default; its alias."""
    await tx.execute(
        """
        UPDATE models SET is_default = 1
        WHERE id = (SELECT min(id) FROM models)
          AND NOT EXISTS (SELECT 1 FROM models WHERE is_default = 1)
        """
    )
    return await tx.scalar("SELECT alias FROM models WHERE is_default = 1")


async def set_checked(tx: Transaction, model: StoredModel) -> None:
    """Keep what a check of the file found: its time, and what its header says."""
    await tx.execute(
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
            "embeds": int(model.embeds),
            "fills_in": int(model.fills_in),
        },
    )
