-- The lease of each running task: the server that runs it, and when another may take it over.
-- A table of its own, because a renewal would otherwise rewrite the row of the task with the
-- files of its request. A running task without a row here has no server.
-- readable_since: 0010

CREATE TABLE task_leases (
    task_id BIGINT NOT NULL PRIMARY KEY REFERENCES tasks (id) ON DELETE CASCADE,
    attempt BIGINT NOT NULL,
    owner TEXT NOT NULL,
    expires_at DOUBLE PRECISION NOT NULL
) WITHOUT ROWID;

CREATE TRIGGER task_leases_end AFTER UPDATE OF status ON tasks
WHEN OLD.status = 'running' AND NEW.status <> 'running' BEGIN
    DELETE FROM task_leases WHERE task_id = OLD.id;
END;
