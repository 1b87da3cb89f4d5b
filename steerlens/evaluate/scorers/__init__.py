"""Scorers: what says of a text, from 0 to 1, how much of something it has.

    Scorer, Card, Heldout         the protocol, and what is known of a scorer
    ask, heldout                  scores that are checked; accuracy on labelled texts
    oracle                        the toy world's exact grammar
    fit_text_classifier           TF-IDF and logistic regression on texts of one's own
    save_text_classifier, load_text_classifier
    hugging_face_scorer           a sequence classifier from a folder or the hub
    word_list, function_scorer    a list of words; any function
    vader                         where vaderSentiment is installed

Example:
    >>> import steerlens.evaluate.scorers as scorers
    >>> "oracle" in dir(scorers)
    True
"""

from typing import TYPE_CHECKING

from steerlens.lazy import lazily

if TYPE_CHECKING:
    from steerlens.evaluate.scorers.card import Card as Card
    from steerlens.evaluate.scorers.card import Heldout as Heldout
    from steerlens.evaluate.scorers.card import Scorer as Scorer
    from steerlens.evaluate.scorers.card import ask as ask
    from steerlens.evaluate.scorers.card import heldout as heldout
    from steerlens.evaluate.scorers.grammar import oracle as oracle
    from steerlens.evaluate.scorers.hugging_face import hugging_face_scorer as hugging_face_scorer
    from steerlens.evaluate.scorers.lexicon import vader as vader
    from steerlens.evaluate.scorers.simple import function_scorer as function_scorer
    from steerlens.evaluate.scorers.simple import word_list as word_list
    from steerlens.evaluate.scorers.text_classifier import (
        fit_text_classifier as fit_text_classifier,
    )
    from steerlens.evaluate.scorers.text_classifier import (
        load_text_classifier as load_text_classifier,
    )
    from steerlens.evaluate.scorers.text_classifier import (
        save_text_classifier as save_text_classifier,
    )

_HOME = {
    "Card": "card",
    "Heldout": "card",
    "Scorer": "card",
    "ask": "card",
    "fit_text_classifier": "text_classifier",
    "function_scorer": "simple",
    "heldout": "card",
    "hugging_face_scorer": "hugging_face",
    "load_text_classifier": "text_classifier",
    "oracle": "grammar",
    "save_text_classifier": "text_classifier",
    "vader": "lexicon",
    "word_list": "simple",
}
__getattr__, __dir__ = lazily(__name__, _HOME)
