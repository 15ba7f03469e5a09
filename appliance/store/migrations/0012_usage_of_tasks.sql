-- Whose call a usage record is, so that each is charged once whoever writes it: `key` is unique
-- among all servers; calls of tasks have it from the task, its attempt and the call's number in
-- that attempt. Records of older versions have none. `owner` is the server that settles the
-- record, or at its next start finds that it was interrupted.
-- readable_since: 0010

ALTER TABLE usage_records ADD COLUMN key TEXT;

ALTER TABLE usage_records ADD COLUMN task_id BIGINT;

ALTER TABLE usage_records ADD COLUMN attempt BIGINT;

ALTER TABLE usage_records ADD COLUMN call BIGINT;

ALTER TABLE usage_records ADD COLUMN owner TEXT;

CREATE UNIQUE INDEX usage_records_by_key ON usage_records (key);

CREATE UNIQUE INDEX usage_records_of_task ON usage_records (task_id, attempt, call)
WHERE task_id IS NOT NULL;

-- The highest id of the deleted tasks: an id is not used again, or the charges of a new task
-- would be taken for those of a deleted one.
CREATE TABLE deleted_tasks (
    singleton INTEGER PRIMARY KEY CHECK (singleton = 1),
    last_id BIGINT NOT NULL
);

INSERT INTO deleted_tasks (singleton, last_id) VALUES (1, 0);

CREATE TRIGGER tasks_deleted_id AFTER DELETE ON tasks BEGIN
    UPDATE deleted_tasks SET last_id = OLD.id WHERE last_id < OLD.id;
END;
