"""Built-in providers of models: llama_cpp/ (local), openai/, anthropic/, google/ (remote)."""
