"""Random ids of requests and responses. They are unique, but not secret."""

import random

# os.urandom would cost more than the routing of a request.
_random = random.Random()  # noqa: S311


def new_id(prefix: str, digits: int = 24) -> str:
    """`prefix`, followed by random hexadecimal digits."""
    return f"{prefix}{_random.getrandbits(4 * digits):0{digits}x}"
