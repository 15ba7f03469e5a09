"""One module per table, SQL inline; named after the table."""
