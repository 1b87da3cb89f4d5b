"""The embedding space itself: neighbours, analogies, components, probes, similarity, input against
output, lexicons.

emb = embedding(model)                          # output embeddings; "W_E" for the input's; inner="causal"
neighbours(emb, ["good"])                       # what lies near
analogies(emb, questions)                       # a : b = c : ?
components(emb, method="ica")                   # axes with the words at their ends
probe(emb, {"good": 1.0, "bad": -1.0, ...})     # can it be read off linearly?
word_similarity(emb, pairs)                     # beside people's judgements
compare_embeddings(emb, other)                  # how alike are two embeddings?
lexicon_alignment(steer, lexicon)               # does a steer write along it?
"""

from steerlens.analysis.embeddings.compare import Comparison, compare_embeddings
from steerlens.analysis.embeddings.components import components
from steerlens.analysis.embeddings.lexicon import lexicon_alignment
from steerlens.analysis.embeddings.nearest import analogies, neighbours, word_similarity
from steerlens.analysis.embeddings.probe import probe
from steerlens.analysis.embeddings.table import Embedding, ResultTable, embedding

__all__ = [
    "Comparison",
    "Embedding",
    "ResultTable",
    "analogies",
    "compare_embeddings",
    "components",
    "embedding",
    "lexicon_alignment",
    "neighbours",
    "probe",
    "word_similarity",
]
