-- The row that the server writes from time to time to learn whether it can write.

CREATE TABLE write_probe (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    at REAL NOT NULL
);
