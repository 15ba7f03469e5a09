"""The texts that the agent sends to a model: personas and prompts."""
