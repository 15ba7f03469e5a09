"""Names for requests and answers: unique, and no secret."""

import random

# Not for secrets: to ask the system for random bytes costs a request more than its routing.
_chance = random.Random()  # noqa: S311


def new_id(prefix: str, digits: int = 24) -> str:
    """`prefix` and that many random hexadecimal digits."""
    return f"{prefix}{_chance.getrandbits(4 * digits):0{digits}x}"
