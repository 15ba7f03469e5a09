"""OpenAI's Responses API, for text and function tools: /v1/responses."""
