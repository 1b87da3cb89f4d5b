"""Tables as lines of a terminal: what a wide frame would cut."""

import textwrap

import pandas as pd

from steerlens.show.tables import check_table, groups


def continuations(table: pd.DataFrame, *, width: int = 88) -> str:
    """Return what a model wrote as lines: each prompt, below it a line per strength with the whole
    text.

    Args:
        table: from `steerlens.generate`; with a column `kl` (nats per token) it is shown beside
            each strength.
        width: characters per line; longer texts go on below, indented.

    Example:
        >>> table = pd.DataFrame({"prompt": ["a"] * 2, "strength": [-1.0, 1.0], "sample": [0, 0], "text": [" b", " c"]})
        >>> print(continuations(table.assign(kl=[0.05, 0.04])))
        a
          -1  (0.050 nats)  b
          +1  (0.040 nats)  c

    Raises:
        ValueError: another table.
    """
    check_table(table, "prompt strength sample text", "of steerlens.generate")
    signs = [f"{strength:+g}" if strength else "0" for strength in table.strength]
    costs = [
        f"  ({cost:.3f} nats)" if cost == cost else ""
        for cost in (table.kl if "kl" in table else [float("nan")] * len(table))
    ]
    wide = max(map(len, signs), default=0)
    room = max(map(len, costs), default=0)
    shown = table.assign(
        head=[f"  {sign:>{wide}}{cost:<{room}}  " for sign, cost in zip(signs, costs, strict=True)]
    )
    lines: list[str] = []
    for (prompt, _), part in groups(shown, ["prompt", "sample"]):
        lines.append(str(prompt))
        for head, text in zip(part["head"], part.text, strict=True):
            # what was written empty is missing in a table that was saved and read again
            flat = " ".join(text.split()) if isinstance(text, str) else ""
            flat = flat or "(ends here)"
            lines += textwrap.wrap(
                flat, width, initial_indent=head, subsequent_indent=" " * len(head)
            )
    return "\n".join(lines)
