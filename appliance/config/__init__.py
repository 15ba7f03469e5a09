"""Configuration: typed settings, and the loader that reads flags, environment and file."""
