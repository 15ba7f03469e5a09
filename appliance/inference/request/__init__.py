"""What all of inference shares: calls, routes, deadlines, errors, the boundary to providers."""
