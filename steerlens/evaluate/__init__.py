"""What an intervention is worth and what it costs, measured the same way for all; knows no way of
fitting one.

Given texts: `classify`, `compare` (everything at equal KL), `draws` (the same over draws of the
training texts), `leak` (what a steer does to other attributes), `sign_margin` (of any intervention,
with intervals; `signed`: of which texts), `ground_truth` (what only a toy model's grammar can
tell), `losses` (on kept states), `matched_kl` (strengths that cost as much), `strength` (inferred
from texts), `verdict`.

Written texts: `scorers` (what judges an attribute), `measures` and `fluency`, `protocols` and
`prompts` (detoxification, sentiment), `runs` and `summary` (their texts and numbers),
`compare_writing` (methods at the same cost, with `controls`), `price` (numbers learned, time to write), `spend` (a
strength under a budget), `advise` (which strength, and whether to trust it), `writer` (methods that no edit of activations
can express) and `verbs`.

Each is loaded on first use; those that need the toy world's truth are here by their own names too.

Example:
    >>> import steerlens as sl
    >>> "label_curve" in dir(sl.evaluate)
    True
"""

from steerlens.lazy import lazily

ROOMS = (
    "advise", "classify", "compare", "compare_writing", "controls", "draws", "fluency", "ground_truth", "leak", "losses",
    "matched_kl", "measures", "price", "prompts", "protocols", "runs", "scorers", "sign_margin", "signed", "spend", "strength",
    "summary", "verbs", "verdict", "writer",
)  # fmt: skip
TRUTH = ("gap_closed", "label_curve", "written_attribute")
__getattr__, __dir__ = lazily(
    __name__, {room: room for room in ROOMS} | dict.fromkeys(TRUTH, "ground_truth")
)
