-- What each completion used and cost; no text. A row is `reserved` while it runs, with the
-- most that it can cost, and settled at its end. It refers to users and keys without a
-- foreign key: what was used stays true when they are gone, and one bad row must not
-- keep the others of its group out. `exact` says that the provider counted, not we.
CREATE TABLE usage_records (
    id INTEGER PRIMARY KEY,
    user_id INTEGER,
    key_id INTEGER,
    kind TEXT NOT NULL CHECK (kind IN ('chat', 'task', 'embedding')),
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    status TEXT NOT NULL CHECK (
        status IN ('reserved', 'completed', 'failed', 'cancelled', 'interrupted')
    ),
    prompt_tokens INTEGER NOT NULL DEFAULT 0,
    completion_tokens INTEGER NOT NULL DEFAULT 0,
    cached_tokens INTEGER NOT NULL DEFAULT 0,
    exact INTEGER NOT NULL DEFAULT 0 CHECK (exact IN (0, 1)),
    reserved_cost REAL,
    cost REAL,
    seconds REAL,
    started_at REAL NOT NULL,
    CHECK ((status = 'reserved') = (seconds IS NULL))
);

CREATE INDEX usage_records_of_user ON usage_records (user_id, started_at);
CREATE INDEX usage_records_by_time ON usage_records (started_at);
CREATE INDEX usage_records_reserved ON usage_records (status) WHERE status = 'reserved';
