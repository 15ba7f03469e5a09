"""The database: sqlite/ connects, prepares and migrates it; tables/ has one module per table."""
