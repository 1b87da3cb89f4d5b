"""Theory on ground truth: what a linear steer can do, measured where the truth is known.

`truth` (positions whose next token is known as a distribution), `distill` (the best steer there
is), `ceiling` (the gap to the truth in parts), `linearity` (how far strengths and sums are from
straight lines, and the bounds), `carries` (whether a model's states hold the exact belief),
`gauge` (the same model in another basis).

Example:
    >>> import steerlens as sl
    >>> "gap_parts" in dir(sl.analysis.theory)
    True
"""

from steerlens.lazy import lazily

HOMES = {
    "Truth": "truth", "exact_truth": "truth", "truth_of": "truth",
    "Distilled": "distill", "distil_truth": "distill", "metric_of": "distill",
    "gap_parts": "ceiling", "head_limit": "ceiling", "margin_at_kl": "ceiling",
    "interpolation_error": "linearity", "composition_error": "linearity", "prior_shift": "linearity",
    "Beliefs": "carries", "read_beliefs": "carries", "belief_probe": "carries", "belief_alignment": "carries",
    "gauge_errors": "gauge", "random_gauge": "gauge",
}  # fmt: skip
__getattr__, __dir__ = lazily(__name__, HOMES)
