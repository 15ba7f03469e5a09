-- What a model's header says beyond 0003, when its file was last found to be the one that
-- was added (`checked_mtime_ns`, 0: never), and what loading it on this machine measured.

ALTER TABLE models ADD COLUMN kv_bytes_per_token INTEGER NOT NULL DEFAULT 0;

ALTER TABLE models ADD COLUMN embeds INTEGER NOT NULL DEFAULT 0 CHECK (embeds IN (0, 1));

ALTER TABLE models ADD COLUMN fills_in INTEGER NOT NULL DEFAULT 0 CHECK (fills_in IN (0, 1));

ALTER TABLE models ADD COLUMN checked_mtime_ns INTEGER NOT NULL DEFAULT 0;

CREATE TABLE model_probes (
    model_id INTEGER PRIMARY KEY REFERENCES models (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    threads INTEGER NOT NULL,
    chunk INTEGER NOT NULL,
    prefill_tokens_per_second REAL,
    decode_tokens_per_second REAL,
    memory_bytes INTEGER NOT NULL,
    load_seconds REAL NOT NULL,
    measured_at REAL NOT NULL
);
