"""Operations on lists of tokens."""

_STRIDE = 256


def common_prefix_length(left: list[int], right: list[int], limit: int | None = None) -> int:
    """Number of tokens that both lists start with, at most `limit`."""
    end = min(len(left), len(right), len(right) if limit is None else limit)
    at = 0
    while at < end and left[at : min(at + _STRIDE, end)] == right[at : min(at + _STRIDE, end)]:
        at = min(at + _STRIDE, end)
    while at < end and left[at] == right[at]:
        at += 1
    return at
