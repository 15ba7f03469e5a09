"""Monkey Coder: a team's AI coding service on one machine."""

__version__ = "0.1.0"
