CREATE TABLE api_keys (
    id INTEGER PRIMARY KEY,
    public_id TEXT UNIQUE NOT NULL,
    user_id INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    parent_id INTEGER REFERENCES api_keys (id) ON DELETE SET NULL,
    name TEXT NOT NULL,
    prefix TEXT NOT NULL,
    key_hash TEXT UNIQUE NOT NULL,
    scopes TEXT NOT NULL,
    created_at REAL NOT NULL,
    expires_at REAL,
    revoked_at REAL,
    last_used_at REAL,
    use_count INTEGER NOT NULL DEFAULT 0
);

CREATE TABLE deleted_tasks (
    singleton INTEGER PRIMARY KEY CHECK (singleton = 1),
    last_id BIGINT NOT NULL
);

CREATE TABLE login_networks (
    user_id INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    network TEXT NOT NULL,
    last_at REAL NOT NULL,
    PRIMARY KEY (user_id, network)
) WITHOUT ROWID;

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
, row_costs TEXT NOT NULL DEFAULT '[]');

CREATE TABLE models (
    id INTEGER PRIMARY KEY,
    alias TEXT NOT NULL UNIQUE,
    path TEXT NOT NULL,
    in_place INTEGER NOT NULL CHECK (in_place IN (0, 1)),
    sha256 TEXT NOT NULL,
    size INTEGER NOT NULL,
    architecture TEXT NOT NULL,
    parameters INTEGER NOT NULL,
    context_tokens INTEGER NOT NULL,
    quantization TEXT NOT NULL,
    source TEXT NOT NULL,
    is_default INTEGER NOT NULL DEFAULT 0 CHECK (is_default IN (0, 1)),
    created_at REAL NOT NULL
, kv_bytes_per_token INTEGER NOT NULL DEFAULT 0, embeds INTEGER NOT NULL DEFAULT 0 CHECK (embeds IN (0, 1)), fills_in INTEGER NOT NULL DEFAULT 0 CHECK (fills_in IN (0, 1)), checked_mtime_ns INTEGER NOT NULL DEFAULT 0);

CREATE TABLE rate_events (
    id INTEGER PRIMARY KEY,
    window TEXT NOT NULL,
    key_hash BLOB NOT NULL,
    at REAL NOT NULL
);

CREATE TABLE refresh_tokens (
    id INTEGER PRIMARY KEY,
    session_id INTEGER NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    token_hash TEXT UNIQUE NOT NULL,
    created_at REAL NOT NULL,
    expires_at REAL NOT NULL,
    used_at REAL
);

CREATE TABLE schema_migrations (
    name TEXT PRIMARY KEY,
    checksum TEXT NOT NULL,
    applied_at REAL NOT NULL,
    program_version TEXT NOT NULL,
    readable_since TEXT
);

CREATE TABLE sessions (
    id INTEGER PRIMARY KEY,
    public_id TEXT UNIQUE NOT NULL,
    user_id INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    created_at REAL NOT NULL,
    expires_at REAL NOT NULL,
    revoked_at REAL
);

CREATE TABLE task_events (
    task_id INTEGER NOT NULL REFERENCES tasks (id),
    seq INTEGER NOT NULL CHECK (seq > 0),
    at REAL NOT NULL,
    kind TEXT NOT NULL,
    data TEXT NOT NULL, user_id BIGINT, user_seq BIGINT,
    PRIMARY KEY (task_id, seq)
) WITHOUT ROWID;

CREATE TABLE task_leases (
    task_id BIGINT NOT NULL PRIMARY KEY REFERENCES tasks (id) ON DELETE CASCADE,
    attempt BIGINT NOT NULL,
    owner TEXT NOT NULL,
    expires_at DOUBLE PRECISION NOT NULL
) WITHOUT ROWID;

CREATE TABLE "task_turns" (
    user_id BIGINT NOT NULL REFERENCES users (id),
    kind TEXT NOT NULL,
    priority INTEGER NOT NULL,
    last_at DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (user_id, kind, priority)
) WITHOUT ROWID;

CREATE TABLE tasks (
    id INTEGER PRIMARY KEY,
    public_id TEXT NOT NULL,
    user_id INTEGER NOT NULL REFERENCES users (id),
    status TEXT NOT NULL DEFAULT 'queued'
        CHECK (status IN ('queued', 'running', 'completed', 'failed', 'cancelled')),
    -- 0 interactive, 1 normal, 2 batch
    priority INTEGER NOT NULL CHECK (priority BETWEEN 0 AND 2),
    attempt INTEGER NOT NULL DEFAULT 0,
    -- how often the box died while this task ran
    interruptions INTEGER NOT NULL DEFAULT 0,
    -- how long one attempt may take, if the caller said so
    timeout_s REAL CHECK (timeout_s > 0),
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL,
    started_at REAL,
    finished_at REAL,
    deadline_at REAL,
    request_hash TEXT NOT NULL,
    -- JSON; the large columns stand last, so that the others are read without them
    failure TEXT,
    request TEXT NOT NULL,
    sources TEXT NOT NULL,
    result TEXT, kind TEXT NOT NULL DEFAULT 'execute', origin TEXT NOT NULL DEFAULT 'monkey',
    CHECK ((status = 'completed') = (result IS NOT NULL)),
    CHECK ((status = 'failed') = (failure IS NOT NULL)),
    CHECK ((status IN ('queued', 'running')) = (finished_at IS NULL)),
    CHECK (status <> 'running' OR (started_at IS NOT NULL AND deadline_at IS NOT NULL))
);

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
    started_at REAL NOT NULL, key TEXT, task_id BIGINT, attempt BIGINT, call BIGINT, owner TEXT,
    CHECK ((status = 'reserved') = (seconds IS NULL))
);

CREATE TABLE user_events (
    user_id BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    seq BIGINT NOT NULL CHECK (seq > 0),
    at DOUBLE PRECISION NOT NULL,
    kind TEXT NOT NULL,
    data TEXT NOT NULL,
    PRIMARY KEY (user_id, seq)
) WITHOUT ROWID;

CREATE TABLE user_feeds (
    user_id BIGINT NOT NULL PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
    last_seq BIGINT NOT NULL
) WITHOUT ROWID;

CREATE TABLE user_storage (
    user_id INTEGER PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
    bytes INTEGER NOT NULL
);

CREATE TABLE users (
    id INTEGER PRIMARY KEY,
    public_id TEXT UNIQUE NOT NULL,
    username TEXT UNIQUE NOT NULL,
    email TEXT UNIQUE NOT NULL,
    name TEXT NOT NULL,
    password_hash TEXT,
    role TEXT NOT NULL CHECK (role IN ('admin', 'developer', 'viewer', 'api_user')),
    disabled INTEGER NOT NULL DEFAULT 0 CHECK (disabled IN (0, 1)),
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL
, plan TEXT NOT NULL DEFAULT 'free');

CREATE TABLE write_probe (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    at REAL NOT NULL
);

CREATE INDEX api_keys_of_parent ON api_keys (parent_id);

CREATE INDEX api_keys_of_user ON api_keys (user_id, created_at);

CREATE UNIQUE INDEX models_one_default ON models (is_default) WHERE is_default = 1;

CREATE INDEX rate_events_by_key ON rate_events (window, key_hash, at);

CREATE INDEX rate_events_by_time ON rate_events (window, at);

CREATE INDEX refresh_tokens_by_expiry ON refresh_tokens (expires_at);

CREATE INDEX refresh_tokens_of_session ON refresh_tokens (session_id);

CREATE UNIQUE INDEX refresh_tokens_unused ON refresh_tokens (session_id) WHERE used_at IS NULL;

CREATE INDEX sessions_by_expiry ON sessions (expires_at);

CREATE INDEX sessions_of_user ON sessions (user_id, created_at);

CREATE UNIQUE INDEX task_events_of_user ON task_events (user_id, user_seq)
WHERE user_seq IS NOT NULL;

CREATE UNIQUE INDEX task_events_one_end ON task_events (task_id)
WHERE kind IN ('completed', 'failed', 'cancelled');

CREATE INDEX tasks_by_end ON tasks (status, kind, finished_at) WHERE finished_at IS NOT NULL;

CREATE UNIQUE INDEX tasks_by_name ON tasks (public_id, user_id);

CREATE INDEX tasks_by_user ON tasks (user_id, id);

CREATE INDEX tasks_by_user_and_kind ON tasks (user_id, kind, id);

CREATE INDEX tasks_by_user_and_status ON tasks (user_id, status, id);

CREATE INDEX tasks_queued ON tasks (status, kind, user_id, priority, id) WHERE status = 'queued';

CREATE INDEX tasks_running ON tasks (status, kind, user_id) WHERE status = 'running';

CREATE UNIQUE INDEX usage_records_by_key ON usage_records (key);

CREATE INDEX usage_records_by_time ON usage_records (started_at);

CREATE UNIQUE INDEX usage_records_of_task ON usage_records (task_id, attempt, call)
WHERE task_id IS NOT NULL;

CREATE INDEX usage_records_of_user ON usage_records (user_id, started_at);

CREATE INDEX usage_records_reserved ON usage_records (status) WHERE status = 'reserved';

CREATE INDEX user_events_by_time ON user_events (at);

CREATE TRIGGER task_events_deleted AFTER DELETE ON task_events BEGIN
    UPDATE user_storage SET bytes = bytes - LENGTH(CAST(OLD.data AS BLOB))
    WHERE user_id = (SELECT user_id FROM tasks WHERE id = OLD.task_id);
END;

CREATE TRIGGER task_events_stored AFTER INSERT ON task_events BEGIN
    UPDATE user_storage SET bytes = bytes + LENGTH(CAST(NEW.data AS BLOB))
    WHERE user_id = (SELECT user_id FROM tasks WHERE id = NEW.task_id);
END;

CREATE TRIGGER task_leases_end AFTER UPDATE OF status ON tasks
WHEN OLD.status = 'running' AND NEW.status <> 'running' BEGIN
    DELETE FROM task_leases WHERE task_id = OLD.id;
END;

CREATE TRIGGER tasks_deleted AFTER DELETE ON tasks BEGIN
    UPDATE user_storage SET bytes = bytes
        - LENGTH(CAST(OLD.request AS BLOB)) - LENGTH(CAST(OLD.sources AS BLOB))
        - LENGTH(CAST(COALESCE(OLD.result, '') AS BLOB))
        - LENGTH(CAST(COALESCE(OLD.failure, '') AS BLOB))
    WHERE user_id = OLD.user_id;
END;

CREATE TRIGGER tasks_deleted_id AFTER DELETE ON tasks BEGIN
    UPDATE deleted_tasks SET last_id = OLD.id WHERE last_id < OLD.id;
END;

CREATE TRIGGER tasks_end_once BEFORE UPDATE OF status ON tasks
WHEN OLD.status IN ('completed', 'failed', 'cancelled') BEGIN
    SELECT RAISE(ABORT, 'a task that has ended keeps its status');
END;

CREATE TRIGGER tasks_stored AFTER INSERT ON tasks BEGIN
    INSERT INTO user_storage (user_id, bytes)
    VALUES (
        NEW.user_id, LENGTH(CAST(NEW.request AS BLOB)) + LENGTH(CAST(NEW.sources AS BLOB))
    )
    ON CONFLICT (user_id) DO UPDATE SET bytes = bytes + excluded.bytes;
END;

CREATE TRIGGER tasks_stored_end AFTER UPDATE OF result, failure ON tasks BEGIN
    UPDATE user_storage SET bytes = bytes
        + LENGTH(CAST(COALESCE(NEW.result, '') AS BLOB))
        + LENGTH(CAST(COALESCE(NEW.failure, '') AS BLOB))
        - LENGTH(CAST(COALESCE(OLD.result, '') AS BLOB))
        - LENGTH(CAST(COALESCE(OLD.failure, '') AS BLOB))
    WHERE user_id = NEW.user_id;
END;
