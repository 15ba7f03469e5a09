-- The GGUF files of this box. `path` is the file's name in the models folder, or, where
-- `in_place`, the absolute path of a file that is not ours. Times are epoch seconds.

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
);

CREATE UNIQUE INDEX models_one_default ON models (is_default) WHERE is_default = 1;
