"""SQLite in WAL mode, for one server process.

database.py     Database: one writer, several readers
connection.py   Connection and Transaction: queries with named parameters
prepare.py      creates, locks and migrates the file at the start
lock.py         DatabaseLock: one server per database
migrate.py      applies the migrations
failures.py     translates SQLite's errors
write_probe.py  WriteProbe: whether the database can be written
"""
