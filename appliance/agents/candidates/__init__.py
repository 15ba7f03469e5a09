"""Writes candidates in rounds, compares, repairs and combines them, and chooses the answer."""
