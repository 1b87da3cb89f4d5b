"""What a steer, a model's words and its states look like, a room per question.

`embeddings` (neighbours, components, lexicons and probes of the output words), `highlight` (spans
of a text), `prompts` (where tuned prompts end), `reft` (its size against its quality),
`state_shift` (of states under an intervention), `subspaces`, `svd` (directions of a steer and their
words), `theory` (on ground truth), `trajectories`, `transfer`. Each is loaded on first use.

Example:
    >>> import steerlens as sl
    >>> "neighbours" in dir(sl.analysis.embeddings)
    True
"""

from steerlens.lazy import lazily

ROOMS = (
    "embeddings", "highlight", "prompts", "reft", "state_shift", "subspaces", "svd", "theory", "trajectories",
    "transfer",
)  # fmt: skip
__getattr__, __dir__ = lazily(__name__, {room: room for room in ROOMS})
