"""Finding card numbers (PANs) in text, so that they are neither kept nor shown.

A card number is 13 to 19 digits that begin as an issuer's do, have a length that this issuer uses, and end in the right check
digit (Luhn; ISO/IEC 7812-1). Spaces and dashes may stand between. Of random ids of 16 digits about one in forty is such a
number too, and nothing tells them apart. What cannot be one:

- digits inside a hexadecimal id (``9f4111111111111111c0``): those that touch a letter from a to f. A prefix of up to three
  letters at the beginning, as in ``c4111111111111111``, makes no hexadecimal id.
- a UUID, whatever its digits.
- digits of a longer run, such as ``00004111111111111111``.
"""

import re
import unicodedata
from collections.abc import Iterator

__all__ = ["SHORTEST", "holds_card_number", "masked"]

SHORTEST = 13
"""Text with fewer characters holds no card number."""

_LONGEST = 19
_MASK = "[card number]"
_BETWEEN = r"[\s\u2010-\u2015-]{0,3}"
_MANY_DIGITS = re.compile(rf"\d(?:{_BETWEEN}\d){{{SHORTEST - 1}}}").search
_RUN = re.compile(rf"\d(?:{_BETWEEN}\d){{{SHORTEST - 1},}}")
# The same for ASCII, but that any number of separators may stand between: digits become 0, all else 1.
_SEPARATORS = b" \t\n\r\x0b\x0c-"
_SHAPE = bytes(b"0"[0] if chr(code).isdigit() and code < 128 else b"1"[0] for code in range(256))
_THIRTEEN = b"0" * SHORTEST
_GROUP = re.compile(r"\d+")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
# A line's end or a tab as Python and JSON quote it.
_QUOTED = re.compile(r"\\[nrt]")
_PREFIX = re.compile(r"[A-Za-z]{1,3}")
_HEX_LETTERS = frozenset("abcdefABCDEF")

# First and last beginning of an issuer's range, and the lengths that it uses: the published ranges of the networks.
_ISSUERS = (
    (4, 4, (13, 16, 19)),  # Visa
    (51, 55, (16,)),  # Mastercard
    (2221, 2720, (16,)),
    (34, 34, (15,)),  # American Express
    (37, 37, (15,)),
    (6011, 6011, range(16, 20)),  # Discover
    (644, 659, range(16, 20)),
    (3528, 3589, range(16, 20)),  # JCB
    (300, 305, (14,)),  # Diners Club
    (36, 36, (14,)),
    (38, 39, (14,)),
    (62, 62, range(16, 20)),  # UnionPay
    (2200, 2204, range(16, 20)),  # Mir
    (5018, 5018, range(13, 20)),  # Maestro
    (5020, 5020, range(13, 20)),
    (5038, 5038, range(13, 20)),
    (5893, 5893, range(13, 20)),
    (6304, 6304, range(13, 20)),
    (6759, 6763, range(13, 20)),
)
_LENGTHS = {
    str(begin): frozenset(lengths) for low, high, lengths in _ISSUERS for begin in range(low, high + 1)
}

_DOUBLED = {str(digit): sum(divmod(2 * digit, 10)) for digit in range(10)}


def holds_card_number(text: str) -> bool:
    """Whether a card number stands in the text; well under a microsecond where there are fewer than 13 digits in a row."""
    if text.isascii():
        # Bytes are counted in C; an expression would try at each of an id's digits.
        if _THIRTEEN not in text.encode().translate(_SHAPE, _SEPARATORS):
            return False
        if text.isdigit():
            return len(text) <= _LONGEST and _is_card_number(text)
    return _MANY_DIGITS(text) is not None and next(_found(text), None) is not None


def masked(text: str) -> str:
    """The text without its card numbers."""
    parts, end = [], 0
    for first, last in _found(text):
        parts += [text[end:first], _MASK]
        end = last
    return "".join([*parts, text[end:]])


def _found(text: str) -> Iterator[tuple[int, int]]:
    """Where card numbers stand, as (first, last + 1), in order and apart."""
    # Replaced by as many characters, so that places stay.
    text = _QUOTED.sub("  ", _UUID.sub(lambda uuid: "x" * len(uuid[0]), text))
    for run in _RUN.finditer(text):
        groups = [
            (run.start() + group.start(), run.start() + group.end())
            for group in _GROUP.finditer(run[0])
            if not _in_hexadecimal(text, run.start() + group.start(), run.start() + group.end())
        ]
        start = 0
        while start < len(groups):
            end = _card_from(text, groups, start)
            if end is not None:
                yield groups[start][0], groups[end][1]
                start = end
            start += 1


def _card_from(text: str, groups: list[tuple[int, int]], start: int) -> int | None:
    """The group with which a card number ends that begins with group ``start``; None if none does."""
    digits = ""
    for place in range(start, len(groups)):
        digits += "".join(str(unicodedata.digit(each)) for each in text[slice(*groups[place])])
        if len(digits) > _LONGEST:
            return None
        if len(digits) >= SHORTEST and _is_card_number(digits):
            return place
    return None


def _in_hexadecimal(text: str, first: int, last: int) -> bool:
    after = last < len(text) and text[last] in _HEX_LETTERS
    before = first > 0 and text[first - 1] in _HEX_LETTERS and not _PREFIX.fullmatch(text[:first])
    return after or before


def _is_card_number(digits: str) -> bool:
    size = len(digits)
    issued = (
        size in _LENGTHS.get(digits[:1], ())
        or size in _LENGTHS.get(digits[:2], ())
        or size in _LENGTHS.get(digits[:3], ())
        or size in _LENGTHS.get(digits[:4], ())
    )
    return issued and _check_digit_fits(digits)


def _check_digit_fits(digits: str) -> bool:
    """Luhn: every second digit from the right counts double, by the sum of its digits; all together are a multiple of 10."""
    return (sum(map(_DOUBLED.__getitem__, digits[-2::-2])) + sum(map(int, digits[-1::-2]))) % 10 == 0
