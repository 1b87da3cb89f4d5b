"""Two models read the same text; where do they stand at the same place?"""

from collections.abc import Iterable

import torch
from jaxtyping import Int
from torch import Tensor

from steerlens.maths.torch_defaults import torch_defaults
from steerlens.models.adapters import Model
from steerlens.models.collect import collect
from steerlens.models.hooks import adapter, check_model, convention
from steerlens.models.readout import readout
from steerlens.models.score import warn_of_cut
from steerlens.models.special import read_tokens
from steerlens.models.tokenization import Convention, begin, lay_out
from steerlens.models.vocabulary import Tokenizer
from steerlens.values.labelled import Labelled
from steerlens.values.pairs import Pairs
from steerlens.values.states import States
from steerlens.values.texts import as_texts


@torch_defaults()
def pair(
    source: Model,
    target: Model,
    texts: Labelled | Iterable[str],
    *,
    memory: float = 2.0,
    progress: bool = True,
) -> Pairs:
    """Return the contexts of two models at the same places of the same texts.

    Labels, if there are any, are not looked at.

    A place is a character offset: both models have read the text up to there and nothing beyond, so
    both contexts predict what comes next. With one tokenizer that is every position (but inside a
    character of several tokens); with two, the ends of tokens that they have in common: every end
    of a word, as a rule.

    Args:
        source, target: any models that the package reads; left as they were.
        texts: what both read; some thousand positions are enough for most purposes.
        memory: most gigabytes for the states of each model.
        progress: show bars.

    Raises:
        ValueError: no texts, no place in common, a tokenizer that cannot say where its tokens end.

    Example:
        >>> import steerlens as sl
        >>> found = sl.pair(sl.load_model("toy-64"), sl.load_model("toy-128"), ["it was good ."], progress=False)
        >>> found.c_src.shape, found.c_tgt.shape, found.share
        (torch.Size([5, 64]), torch.Size([5, 128]), 1.0)
    """
    check_model(source, "source")
    check_model(target, "target")
    plain = list(texts.texts) if isinstance(texts, Labelled) else as_texts(texts)
    states = [collect(model, plain, memory=memory, progress=progress) for model in (source, target)]
    for model, read in zip((source, target), states, strict=True):
        warn_of_cut(model, read, "not paired")
    places = [
        _places(model, found, plain) for model, found in zip((source, target), states, strict=True)
    ]
    shared, place = torch.unique(torch.cat(places), return_inverse=True)
    at = torch.full((2, len(shared)), -1, dtype=torch.long)
    at[0, place[: len(places[0])]] = torch.arange(len(places[0]))
    at[1, place[len(places[0]) :]] = torch.arange(len(places[1]))
    return Pairs(states[0], states[1], at[:, (at >= 0).all(0) & (shared >= 0)])


def _places(model: Model, states: States, texts: list[str]) -> Int[Tensor, " n_positions"]:
    """Return, for each stored position, a number that names its text and how many characters had
    been read; −1 for no place.
    """
    ends = token_ends(adapter(model).tokenizer, texts, convention(model, readout(model)))
    stride = 1 + max(map(len, texts))
    text = torch.cat([chunk.text for chunk in states.chunks(1 << 16)])
    # positions of a text are stored in order; which of its positions a row is follows from the rows
    # before it
    order = torch.argsort(text, stable=True)
    starts = torch.cat([torch.zeros(1, dtype=torch.long), states.lengths.cumsum(0)[:-1]])
    flat = torch.cat(
        [
            torch.tensor(of[:n], dtype=torch.long)
            for of, n in zip(ends, states.lengths.tolist(), strict=True)
        ]
    )
    assert len(flat) == len(text) and int(starts[-1] + states.lengths[-1]) == len(text)
    place = torch.empty_like(flat)
    place[order] = torch.where(flat < 0, flat, text[order] * stride + flat)
    return place


def token_ends(tokenizer: Tokenizer, texts: list[str], how: Convention) -> list[list[int]]:
    """Return how many characters of its text have been read after each token, begin-of-text
    included.

    −1 stands where a token ends inside a character.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"tokenizer: {type(tokenizer).__name__} does not say where in a text its tokens end; load the model with a fast "
            "tokenizer (tokenizers library), or use a rule that reads no text"
        )
    strings = lay_out(tokenizer, texts, how)
    read = read_tokens(
        tokenizer, [s.whole for s in strings], [s.start for s in strings], spans=True
    )
    found = []
    for ids, spans, laid in zip(read.ids, read.spans, strings, strict=True):
        ends = [0] * len(begin(tokenizer, how, ids)) + [max(end - laid.lead, 0) for _, end in spans]
        # of several tokens that end at one place the last has read all of the character, the others
        # part of it
        found.append(
            [
                end if end != after else -1
                for end, after in zip(ends, [*ends[1:], None], strict=True)
            ]
        )
    return found
