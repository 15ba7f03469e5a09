"""Chats, raw completions and embeddings for the dialects."""
