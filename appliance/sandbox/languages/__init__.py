"""Languages of the sandbox: recipes, detection, entry points, toolchain cache."""
