-- The feed of a user: the events of all of the user's tasks, and events of no task, in one
-- sequence per user. `user_feeds` holds its last number, so that none is used twice after events
-- were deleted, and locks it until the commit: the order of numbers is that of commits. Events
-- that are older than this migration have no number and are in no feed.
-- readable_since: 0010

CREATE TABLE user_feeds (
    user_id BIGINT NOT NULL PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
    last_seq BIGINT NOT NULL
) WITHOUT ROWID;

CREATE TABLE user_events (
    user_id BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    seq BIGINT NOT NULL CHECK (seq > 0),
    at DOUBLE PRECISION NOT NULL,
    kind TEXT NOT NULL,
    data TEXT NOT NULL,
    PRIMARY KEY (user_id, seq)
) WITHOUT ROWID;

CREATE INDEX user_events_by_time ON user_events (at);

ALTER TABLE task_events ADD COLUMN user_id BIGINT;

ALTER TABLE task_events ADD COLUMN user_seq BIGINT;

CREATE UNIQUE INDEX task_events_of_user ON task_events (user_id, user_seq)
WHERE user_seq IS NOT NULL;
