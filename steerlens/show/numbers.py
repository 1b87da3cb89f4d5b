"""Numbers as readers see them: a real minus sign, never a negative zero, nothing where a value is
missing."""

import math
import re


def fixed(x: float | None, digits: int = 3, *, sign: bool = False) -> str:
    """Return a number with so many decimals; the empty string for a missing one.

    Args:
        x: None and NaN are missing.
        digits: after the point.
        sign: a plus before what is above 0.

    Example:
        >>> fixed(-0.0004), fixed(-1.5, 2), fixed(0.25, 1, sign=True), fixed(float("nan"))
        ('0.000', '−1.50', '+0.2', '')
    """
    if x is None or math.isnan(x):
        return ""
    # adding 0 turns what was rounded to -0.0 into 0.0
    x = round(x, digits) + 0.0
    return f"{x:{'+' if sign and x else ''},.{digits}f}".replace("-", "−")


def format_signed(x: float) -> str:
    """Return a strength or a label as short as it can be: '+2', '−0.5', '0'.

    Example:
        >>> format_signed(2.0), format_signed(-0.5), format_signed(-0.0)
        ('+2', '−0.5', '0')
    """
    return "0" if x == 0 else f"{x:+g}".replace("-", "−")


def percent(share: float) -> str:
    """Return a share in percent, with a space that does not break: '41 %'.

    Example:
        >>> percent(0.41).replace(chr(0x202F), " ")
        '41 %'
    """
    return f"{fixed(100 * share, 0)}\u202f%"


def interval(x: float | None, low: float | None, high: float | None, digits: int = 3) -> str:
    """Return a number and, in brackets, its interval.

    Example:
        >>> interval(0.1, -0.0001, 0.2, 2)
        '0.10 [0.00, 0.20]'
    """
    if not fixed(x, digits):
        return ""
    return f"{fixed(x, digits)} [{fixed(low, digits)}, {fixed(high, digits)}]"


def tidy(text: str) -> str:
    """Return a text whose numbers have a real minus sign and no negative zero.

    Example:
        >>> tidy("margin -0.0000 [-0.0210, +0.0195], 1e-06, held-out")
        'margin 0.0000 [−0.0210, +0.0195], 1e−06, held-out'
    """
    text = re.sub(r"(?<![\w.])[-−](?=0(?:\.0+)?(?![\d.e]))", "", text)
    return re.sub(r"(?:(?<![\w.])|(?<=\de))-(?=\d)", "−", text)
