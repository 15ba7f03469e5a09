"""The sandbox's own Python interpreter: build, packing, installation in the data directory."""
