-- The durable queue and the journal of each task. Times are epoch seconds.

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
    result TEXT,
    CHECK ((status = 'completed') = (result IS NOT NULL)),
    CHECK ((status = 'failed') = (failure IS NOT NULL)),
    CHECK ((status IN ('queued', 'running')) = (finished_at IS NULL)),
    CHECK (status <> 'running' OR (started_at IS NOT NULL AND deadline_at IS NOT NULL))
);

-- A name belongs to one task of its user; starts with the name for those who see all users.
CREATE UNIQUE INDEX tasks_by_name ON tasks (public_id, user_id);
CREATE INDEX tasks_by_user ON tasks (user_id, id);
CREATE INDEX tasks_by_user_and_status ON tasks (user_id, status, id);

-- What the scheduler looks at: as large as the queue, whatever else is stored.
CREATE INDEX tasks_queued ON tasks (status, user_id, priority, id) WHERE status = 'queued';
CREATE INDEX tasks_running ON tasks (status, user_id) WHERE status = 'running';

-- An end is an end, whoever writes.
CREATE TRIGGER tasks_end_once BEFORE UPDATE OF status ON tasks
WHEN OLD.status IN ('completed', 'failed', 'cancelled') BEGIN
    SELECT RAISE(ABORT, 'a task that has ended keeps its status');
END;

-- When a user last had a task of a priority started: the memory of the fair share.
CREATE TABLE task_turns (
    user_id INTEGER NOT NULL REFERENCES users (id),
    priority INTEGER NOT NULL,
    last_at REAL NOT NULL,
    PRIMARY KEY (user_id, priority)
) WITHOUT ROWID;

CREATE TABLE task_events (
    task_id INTEGER NOT NULL REFERENCES tasks (id),
    seq INTEGER NOT NULL CHECK (seq > 0),
    at REAL NOT NULL,
    kind TEXT NOT NULL,
    data TEXT NOT NULL,
    PRIMARY KEY (task_id, seq)
) WITHOUT ROWID;

CREATE UNIQUE INDEX task_events_one_end ON task_events (task_id)
WHERE kind IN ('completed', 'failed', 'cancelled');
