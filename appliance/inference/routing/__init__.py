"""From the name of a model to a route that the caller may use."""
