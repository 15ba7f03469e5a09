"""GBNF of the decimal numbers within bounds, digit by digit."""

from decimal import Decimal

DIGITS_BEFORE = 16
DIGITS_AFTER = 16
_SOME = f"[0-9]{{0,{DIGITS_AFTER - 1}}}"
_ZEROS = f'"0"{{0,{DIGITS_AFTER - 1}}}'
_ANY_FRACTION = f'("." [0-9] {_SOME})?'


class Bound:
    """An end of a range; `open`: the value itself is outside."""

    def __init__(self, value: Decimal, *, is_open: bool) -> None:
        self.value, self.open = value, is_open


def integers(low: int | None, high: int | None) -> str:
    """The whole numbers from `low` to `high`, both included; empty if there are none."""
    ways: list[str] = []
    if low is None or low < 0:
        least = 1 if high is None or high >= 0 else -high
        ways += (f'"-" {way}' for way in _whole(least, None if low is None else -low))
    if high is None or high >= 0:
        ways += _whole(max(0, low or 0), high)
    return " | ".join(ways)


def decimals(low: Bound | None, high: Bound | None) -> str:
    """The numbers between two bounds, without exponent; empty if there are none."""
    zero, ways = Decimal(0), list[str]()
    if low is None or low.value < zero:
        least = Bound(zero, is_open=True)
        if high is not None and high.value < zero:
            least = Bound(-high.value, is_open=high.open)
        most = None if low is None else Bound(-low.value, is_open=low.open)
        ways += (f'"-" {way}' for way in _magnitudes(least, most))
    if high is None or high.value > zero or (high.value == zero and not high.open):
        start = low if low is not None and low.value >= zero else Bound(zero, is_open=False)
        ways += _magnitudes(start, high)
    return " | ".join(ways)


def _magnitudes(low: Bound, high: Bound | None) -> list[str]:
    """Numbers without a sign, `low` not negative."""
    start, after = _split(low.value)
    if high is None:
        return [*_with_fraction(start, after, low.open, None, False), *_free(start + 1, None)]
    end, before = _split(high.value)
    if end < start:
        return []
    if start == end:
        return _with_fraction(start, after, low.open, before, high.open)
    return [
        *_with_fraction(start, after, low.open, None, False),
        *_free(start + 1, end - 1),
        *_with_fraction(end, None, False, before, high.open),
    ]


def _split(value: Decimal) -> tuple[int, str]:
    """The whole part, and the digits behind the point without trailing zeros."""
    whole, _, fraction = f"{value:f}".partition(".")
    return int(whole), fraction.rstrip("0")


def _free(low: int, high: int | None) -> list[str]:
    return [f"{way} {_ANY_FRACTION}" for way in _whole(low, high)]


def _with_fraction(
    whole: int, low: str | None, low_open: bool, high: str | None, high_open: bool
) -> list[str]:
    """One whole part, with what may stand behind the point."""
    fractions = _fractions(low, low_open, high, high_open)
    nothing = not (low or (low == "" and low_open)) and not (high == "" and high_open)
    if fractions:
        point = f'("." ({" | ".join(fractions)})){"?" if nothing else ""}'
        return [f'"{whole}" {point}']
    return [f'"{whole}"'] if nothing else []


def _fractions(low: str | None, low_open: bool, high: str | None, high_open: bool) -> list[str]:
    """Digits behind a point, one at least, between those of the bounds (None: no bound)."""
    if low == "" and not low_open:
        low = None
    if high == "":
        return [] if high_open or low is not None else [f'"0" {_ZEROS}']
    if low is None and high is None:
        return [f"[0-9] {_SOME}"]
    if low == "" and high is None:
        return [f"{_ZEROS} [1-9] {_SOME}"]
    return _by_first_digit(low, low_open, high, high_open)


def _by_first_digit(
    low: str | None, low_open: bool, high: str | None, high_open: bool
) -> list[str]:
    floor = int(low[0]) if low else 0
    ceiling = int(high[0]) if high else 9
    ways: list[str] = []
    free = [
        digit
        for digit in range(floor, ceiling + 1)
        if (low is None or digit > floor) and (high is None or digit < ceiling)
    ]
    if free:
        ways.append(f"[{free[0]}-{free[-1]}] {_SOME}")
    for digit in sorted({floor, ceiling} - set(free)):
        if floor <= digit <= ceiling:
            rest_low = None if low is None or digit > floor else low[1:]
            rest_high = None if high is None or digit < ceiling else high[1:]
            ways += _behind(digit, rest_low, low_open, rest_high, high_open)
    return ways


def _behind(
    digit: int, low: str | None, low_open: bool, high: str | None, high_open: bool
) -> list[str]:
    """This digit, then nothing where that is within the bounds, or more digits."""
    ends = (low is None or (low == "" and not low_open)) and not (high == "" and high_open)
    more = _fractions(low, low_open, high, high_open)
    return [f'"{digit}"'] * ends + [f'"{digit}" {way}' for way in more]


def _whole(low: int, high: int | None) -> list[str]:
    """Whole numbers from `low` on, none negative; without a `high` up to so many digits."""
    top = 10**DIGITS_BEFORE - 1
    high = top if high is None else min(high, top)
    ways: list[str] = []
    for length in range(len(str(low)), len(str(high)) + 1):
        least = max(low, 10 ** (length - 1) if length > 1 else 0)
        most = min(high, 10**length - 1)
        if least <= most:
            ways += _same_length(str(least), str(most))
    return ways


def _same_length(low: str, high: str) -> list[str]:
    """Numbers between two of as many digits."""
    rest = len(low) - 1
    if rest == 0:
        return [f"[{low}-{high}]"]
    if low[0] == high[0]:
        return [f'"{low[0]}" {way}' for way in _same_length(low[1:], high[1:])]
    first, last = int(low[0]), int(high[0])
    ways: list[str] = []
    if low[1:] != "0" * rest:
        ways += (f'"{first}" {way}' for way in _same_length(low[1:], "9" * rest))
        first += 1
    partial: list[str] = []
    if high[1:] != "9" * rest:
        partial = [f'"{last}" {way}' for way in _same_length("0" * rest, high[1:])]
        last -= 1
    if first <= last:
        ways.append(f"[{first}-{last}] [0-9]{{{rest}}}")
    return ways + partial
