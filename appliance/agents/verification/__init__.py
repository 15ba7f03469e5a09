"""Verifies candidates: what to check them against, and running the checks in the sandbox."""
