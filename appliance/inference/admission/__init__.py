"""Whether and when a request may use a provider."""
