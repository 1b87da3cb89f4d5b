"""The texts of which a sign is asked."""

from steerlens.values.arguments import check_labelled
from steerlens.values.labelled import Labelled
from steerlens.values.warn import warn_user


def with_nonzero_label(data: Labelled) -> Labelled:
    """Return the texts whose label is not 0.

    Raises:
        ValueError: there are none.

    Example:
        >>> from steerlens import Labelled
        >>> with_nonzero_label(Labelled(("good .", "so so ."), (1.0, 0.0))).texts
        ('good .',)
    """
    check_labelled(data)
    rows = [i for i, y in enumerate(data.labels) if y]
    if not rows:
        raise ValueError(
            "data: every label is 0, so no text has a sign; add texts with labels above and below 0"
        )
    if len(rows) < len(data) and len({data.labels[i] > 0 for i in rows}) == 1:
        warn_user(
            f"data: {len(data) - len(rows)} of {len(data)} labels are 0, which do not count, and the others have one sign, so "
            "what likes any text looks like a style; two classes are -1 and 1 (read_labelled(…, labels={0: -1, 1: 1}))"
        )
    return data.pick(rows)
