"""The HTTP API: shared parts here, one folder per dialect."""
