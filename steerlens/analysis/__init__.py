"""What a steer, a model's words and its states look like, a room per question.

`embeddings` (neighbours, components, lexicons and probes of the output words), `highlight` (spans
of a text), `layers` (a steer at every site of a model), `prompts` (where tuned prompts end),
`recipes` (every method by its name), `reft` (its size against its quality),
`state_shift` (of states under an intervention), `subspaces`, `svd` (directions of a steer and their
words), `theory` (on ground truth), `trajectories`, `transfer`. Each is loaded on first use.

Example:
    >>> import steerlens as sl
    >>> "neighbours" in dir(sl.analysis.embeddings)
    True
"""

from steerlens.lazy import lazily

ROOMS = (
    "embeddings", "highlight", "layers", "prompts", "recipes", "reft", "state_shift", "subspaces", "svd", "theory",
    "trajectories", "transfer",
)  # fmt: skip
__getattr__, __dir__ = lazily(__name__, {room: room for room in ROOMS})
