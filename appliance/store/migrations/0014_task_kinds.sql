-- The kind of each task, and the API dialect that it was submitted in. Each kind has a queue of
-- its own, so that waiting in one does not count in another. Older programs would run tasks of every kind as
-- `execute`, so that they can't use the result.

ALTER TABLE tasks ADD COLUMN kind TEXT NOT NULL DEFAULT 'execute';
ALTER TABLE tasks ADD COLUMN origin TEXT NOT NULL DEFAULT 'monkey';

DROP INDEX tasks_queued;
CREATE INDEX tasks_queued ON tasks (status, kind, user_id, priority, id) WHERE status = 'queued';
DROP INDEX tasks_running;
CREATE INDEX tasks_running ON tasks (status, kind, user_id) WHERE status = 'running';
DROP INDEX tasks_by_end;
CREATE INDEX tasks_by_end ON tasks (status, kind, finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX tasks_by_user_and_kind ON tasks (user_id, kind, id);

CREATE TABLE task_turns_by_kind (
    user_id BIGINT NOT NULL REFERENCES users (id),
    kind TEXT NOT NULL,
    priority INTEGER NOT NULL,
    last_at DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (user_id, kind, priority)
) WITHOUT ROWID;
INSERT INTO task_turns_by_kind (user_id, kind, priority, last_at)
SELECT user_id, 'execute', priority, last_at FROM task_turns;
DROP TABLE task_turns;
ALTER TABLE task_turns_by_kind RENAME TO task_turns;
