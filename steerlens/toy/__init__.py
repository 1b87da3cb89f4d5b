"""A small world whose truth is known: a grammar of reviews, exact, and language models of it.

    grammar                 the default `Grammar`, built at first use
    Grammar, Condition      a hidden Markov model of texts; the factors of a text
    Posterior               what a text says about its condition
    WordClass, Template     what a grammar of your own is made of
    corpus                  labelled texts of the default grammar
    weights_folder, NAMES   where the shipped language models are
    tasks                   a module: texts of three tasks, for the model `toy-tasks`

The models are trained by `python -m steerlens.toy.train`. Importing this package imports no model
library.
"""

from steerlens.toy.condition import Condition, EntropyRate, WordFactor
from steerlens.toy.corpus import corpus
from steerlens.toy.hmm import Grammar
from steerlens.toy.posterior import Posterior
from steerlens.toy.shipped import NAMES, weights_folder
from steerlens.toy.tables import Template, WordClass
from steerlens.toy.world import default_grammar

__all__ = [
    "NAMES",
    "Condition",
    "Grammar",
    "WordFactor",
    "Posterior",
    "EntropyRate",
    "Template",
    "WordClass",
    "corpus",
    "default_grammar",
    "grammar",  # pyright: ignore[reportUnsupportedDunderAll]
    "weights_folder",
]


def __getattr__(name: str) -> Grammar:
    """Return `grammar`, so that a plain import does not build the tables."""
    if name == "grammar":
        return default_grammar()
    raise AttributeError(
        f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(__all__)}"
    )
