"""The name of a sum."""


def sum_name(terms: tuple[tuple[str, float], ...]) -> str:
    """Return the name of a sum of named things.

    Example:
        >>> sum_name((("joy", 0.7), ("rude", -0.3)))
        '0.7·joy - 0.3·rude'
    """
    text = ""
    for name, k in terms:
        size = "" if abs(k) == 1 else f"{abs(k):.3g}·"
        wrapped = f"({name})" if size and " " in name and name[0] != "(" else name
        sign = (" + " if k > 0 else " - ") if text else ("" if k > 0 else "-")
        text += f"{sign}{size}{wrapped}"
    return text or "0"
