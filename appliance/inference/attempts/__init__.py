"""Retries, fallback and hedging: attempts until a target begins to answer."""
