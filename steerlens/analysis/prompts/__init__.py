"""Where tuned prompts end: how far from their prior, how near to words, and how many directions
they keep.

compare_priors   one fit for each prior and seed, judged on new texts
over_seeds       means of such a table with intervals
embedding_geometry  where rows lie among words, how spread, how far from their start
drift            how far rows are from each of several priors
nearest_tokens   the words nearest to each row
readability      what these words do in the prompt's place
"""

from steerlens.analysis.prompts.compare import compare_priors, over_seeds
from steerlens.analysis.prompts.rows import (
    drift,
    effective_rank,
    embedding_geometry,
    nearest_tokens,
)
from steerlens.analysis.prompts.words import of_words, readability

__all__ = [
    "compare_priors",
    "over_seeds",
    "embedding_geometry",
    "drift",
    "nearest_tokens",
    "readability",
    "effective_rank",
    "of_words",
]
