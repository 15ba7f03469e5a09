"""The Monkey Coder dialect: /api/v1."""
