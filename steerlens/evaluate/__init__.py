"""What an intervention is worth and what it costs, measured the same way for all; knows no way of
fitting one.

`classify`, `compare` (everything at equal KL), `sign_margin` (of any intervention, with intervals),
`fluency`, `ground_truth` (what only a toy model's grammar can tell), `losses` (on kept states),
`matched_kl` (strengths that cost as much), `strength` (inferred from texts), `verdict`. Each is
loaded on first use; those that need the toy world's truth are here by their own names too.

Example:
    >>> import steerlens as sl
    >>> "label_curve" in dir(sl.evaluate)
    True
"""

from steerlens.lazy import lazily

ROOMS = (
    "classify", "compare", "fluency", "ground_truth", "losses", "matched_kl", "sign_margin", "strength", "verdict",
)  # fmt: skip
TRUTH = ("gap_closed", "label_curve", "written_attribute")
__getattr__, __dir__ = lazily(
    __name__, {room: room for room in ROOMS} | dict.fromkeys(TRUTH, "ground_truth")
)
