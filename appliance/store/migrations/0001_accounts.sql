-- Who may use the box, and with what. Times are epoch seconds.

-- Usernames and emails are stored in their canonical (lower-case) form, so that
-- UNIQUE and a lookup are the same for every spelling. No password_hash: no login.
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
);

-- One login and all the tokens that came out of it: the family of its refresh tokens.
CREATE TABLE sessions (
    id INTEGER PRIMARY KEY,
    public_id TEXT UNIQUE NOT NULL,
    user_id INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    created_at REAL NOT NULL,
    expires_at REAL NOT NULL,
    revoked_at REAL
);

CREATE INDEX sessions_of_user ON sessions (user_id, created_at);
CREATE INDEX sessions_by_expiry ON sessions (expires_at);

-- Only the SHA-256 of a token is kept. A used token stays until its session goes,
-- because its second use is what tells that it was stolen.
CREATE TABLE refresh_tokens (
    id INTEGER PRIMARY KEY,
    session_id INTEGER NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    token_hash TEXT UNIQUE NOT NULL,
    created_at REAL NOT NULL,
    expires_at REAL NOT NULL,
    used_at REAL
);

-- A family never has two tokens that could both be exchanged.
CREATE UNIQUE INDEX refresh_tokens_unused ON refresh_tokens (session_id) WHERE used_at IS NULL;
CREATE INDEX refresh_tokens_of_session ON refresh_tokens (session_id);
CREATE INDEX refresh_tokens_by_expiry ON refresh_tokens (expires_at);

-- Only the SHA-256 of a key is kept; `prefix` is its visible start, `scopes` a JSON
-- array of strings. `parent_id` is the key that made this one: revoking it revokes both.
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

CREATE INDEX api_keys_of_user ON api_keys (user_id, created_at);
CREATE INDEX api_keys_of_parent ON api_keys (parent_id);
