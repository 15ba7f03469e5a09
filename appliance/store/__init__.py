"""The database: SQLite access, and one module per table with its SQL.

sqlite/      connections, transactions, lock, migrations
tables/      queries and changes of each table
migrations/  SQL files, applied in order
schema.sql   the schema after all migrations, for reference
"""
