-- Events that rate windows count, in epoch seconds. Keys are SHA-256 digests: what a caller
-- sends as a username can be a password.

CREATE TABLE rate_events (
    id INTEGER PRIMARY KEY,
    window TEXT NOT NULL,
    key_hash BLOB NOT NULL,
    at REAL NOT NULL
);

CREATE INDEX rate_events_by_key ON rate_events (window, key_hash, at);
CREATE INDEX rate_events_by_time ON rate_events (window, at);

-- Networks from which users have logged in: guesses from elsewhere do not slow these down.
CREATE TABLE login_networks (
    user_id INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    network TEXT NOT NULL,
    last_at REAL NOT NULL,
    PRIMARY KEY (user_id, network)
) WITHOUT ROWID;
