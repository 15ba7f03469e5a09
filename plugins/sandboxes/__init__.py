"""Built-in sandbox backends: bubblewrap/, gvisor/, microvm/."""
