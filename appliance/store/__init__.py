"""The database: one module per table with its SQL, and the engine that runs it.

database.py    Database, Connection, Transaction: what an engine offers
rows.py        converts rows to Structs
documents.py   nested values as JSON, compressed if long
parameters.py  values in the types that every engine takes
sqlite/        the engine SQLite; imported by the composition root and the command line only
tables/        queries and changes of each table
migrations/    SQL files, applied in order
schema.sql     the schema after all migrations, for reference
"""
