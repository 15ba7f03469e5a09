"""Embedded SQLite: connection, transactions, lock file, migrations, rows as Structs."""
