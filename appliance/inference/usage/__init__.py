"""Usage records and their cost."""
