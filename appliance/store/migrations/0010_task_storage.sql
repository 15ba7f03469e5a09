-- How much each user's tasks and their journals store, in bytes, kept by triggers: a submission
-- is limited by it, and summing up the rows would take too long. And the order in which ended
-- tasks expire.

CREATE INDEX tasks_by_end ON tasks (status, finished_at) WHERE finished_at IS NOT NULL;

CREATE TABLE user_storage (
    user_id INTEGER PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
    bytes INTEGER NOT NULL
);

INSERT INTO user_storage (user_id, bytes)
SELECT task.user_id, SUM(
    LENGTH(CAST(task.request AS BLOB)) + LENGTH(CAST(task.sources AS BLOB))
    + LENGTH(CAST(COALESCE(task.result, '') AS BLOB))
    + LENGTH(CAST(COALESCE(task.failure, '') AS BLOB))
    + (SELECT COALESCE(SUM(LENGTH(CAST(data AS BLOB))), 0) FROM task_events
       WHERE task_id = task.id)
)
FROM tasks AS task GROUP BY task.user_id;

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

CREATE TRIGGER tasks_deleted AFTER DELETE ON tasks BEGIN
    UPDATE user_storage SET bytes = bytes
        - LENGTH(CAST(OLD.request AS BLOB)) - LENGTH(CAST(OLD.sources AS BLOB))
        - LENGTH(CAST(COALESCE(OLD.result, '') AS BLOB))
        - LENGTH(CAST(COALESCE(OLD.failure, '') AS BLOB))
    WHERE user_id = OLD.user_id;
END;

CREATE TRIGGER task_events_stored AFTER INSERT ON task_events BEGIN
    UPDATE user_storage SET bytes = bytes + LENGTH(CAST(NEW.data AS BLOB))
    WHERE user_id = (SELECT user_id FROM tasks WHERE id = NEW.task_id);
END;

CREATE TRIGGER task_events_deleted AFTER DELETE ON task_events BEGIN
    UPDATE user_storage SET bytes = bytes - LENGTH(CAST(OLD.data AS BLOB))
    WHERE user_id = (SELECT user_id FROM tasks WHERE id = OLD.task_id);
END;
