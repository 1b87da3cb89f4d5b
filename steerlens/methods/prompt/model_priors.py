"""Priors of prompt rows from what a model knows: its vocabulary, label words, a text, its states
over texts."""

from collections import Counter
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.methods.prompt.priors import (
    FixedRows,
    FixedThenPrior,
    Gaussian,
    Prior,
    Vocabulary,
    fit_gaussian,
)
from steerlens.methods.prompt.soft_prompt import prompt_edits
from steerlens.models.embeddings import embeddings, states_at
from steerlens.models.hooks import Model, adapter, apply_edits, convention, eval_mode, run_until
from steerlens.models.readout import readout
from steerlens.models.rows import check_rows
from steerlens.models.tokenization import encode
from steerlens.values.hook_names import EMBED
from steerlens.values.positions import TokenIndex
from steerlens.values.readout import Readout
from steerlens.values.texts import as_texts

TYPICAL = 64
"""Words whose states say how large states of this model are."""


def vocabulary_prior(
    model: Model,
    *,
    frequent: int | None = None,
    texts: Sequence[str] | None = None,
    name: str = "vocabulary",
) -> Vocabulary:
    """Return the embeddings of the model's tokens, special ones left out.

    Args:
        frequent: only so many: the commonest of `texts` (of two as common the lower id), or without
            texts the lowest ids, as vocabularies come commonest first (Lester et al., arXiv
            2104.08691, take the first 5,000). None: all.
        texts: to count in.

    Raises:
        ValueError: `frequent` below 1 or above the number of tokens that there are, texts without
            it.

    Example:
        >>> import steerlens as sl
        >>> vocabulary_prior(sl.load_model("toy-64"), frequent=9).vectors.shape
        torch.Size([9, 64])
    """
    on = readout(model)
    ids = on.ordinary
    if texts is not None:
        if frequent is None:
            raise ValueError(
                "texts: given without frequent=; say how many of their commonest tokens to take"
            )
        counts = Counter(i for text in _ids(model, texts) for i in text if i not in on.special)
        ids = sorted(counts, key=lambda i: (-counts[i], i))
    if frequent is not None:
        if not 1 <= frequent <= len(ids):
            raise ValueError(
                f"frequent: got {frequent}, expected 1 … {len(ids)}, the ordinary tokens that there are"
            )
        ids = ids[:frequent]
    return Vocabulary(embeddings(model)[ids], name)


def label_prior(
    model: Model, words: Sequence[str], *, frequent: int | None = None, name: str = "label words"
) -> FixedThenPrior:
    """Return a row for each class-label word, then tokens of the vocabulary.

    The row of a word is the mean of its tokens where it has several.

    Source: Lester et al. (arXiv 2104.08691), section 3.2.

    Args:
        words: as they stand in a text; where the tokenizer tells " good" from "good", with the
            space.
        frequent: of the vocabulary; see `vocabulary_prior`.

    Raises:
        ValueError: no words, or one without a token.

    Example:
        >>> import steerlens as sl
        >>> label_prior(sl.load_model("toy-64"), ("good", "awful")).sample(5, seed=0).shape
        torch.Size([5, 64])
    """
    words = as_texts(words, "words")
    found, known = _ids(model, words), embeddings(model)
    empty = [word for word, ids in zip(words, found, strict=True) if not ids]
    if empty:
        raise ValueError(f"words: {empty[0]!r} holds no token; leave it out")
    rows = torch.stack([known[ids].mean(0) for ids in found])
    return FixedThenPrior(rows, vocabulary_prior(model, frequent=frequent), name)


def text_prior(model: Model, text: str, *, name: str = "text") -> FixedRows:
    """Return the embeddings of a text's tokens in order, without begin-of-text.

    They are repeated where more rows are asked for.

    Raises:
        ValueError: a text without a token.

    Example:
        >>> import steerlens as sl
        >>> text_prior(sl.load_model("toy-64"), "the film was good").vectors.shape
        torch.Size([4, 64])
    """
    ids = _ids(model, [text])[0]
    if not ids:
        raise ValueError(f"text: {text!r} holds no token, expected some words")
    return FixedRows(embeddings(model)[ids], name)


def activation_prior(
    model: Model,
    texts: Sequence[str],
    *,
    site: str = EMBED,
    shrink: float = 0.01,
    name: str = "activations",
) -> Gaussian:
    """Return the Gaussian of a model's states over texts.

    At the embedding every token counts as often as it occurs.

    Args:
        texts: some hundred; begin-of-text is read and not counted.
        site: a TransformerLens hook whose activations have the width of the rows, e.g.
            "blocks.2.hook_resid_post".
        shrink: see `fit_gaussian`.

    Raises:
        ValueError: fewer than two tokens.
        KeyError: no such hook.

    Example:
        >>> import steerlens as sl
        >>> activation_prior(sl.load_model("toy-64"), ["the film was good ."]).mean.shape
        torch.Size([64])
    """
    how = convention(model, readout(model))
    encoded = encode(adapter(model).tokenizer, as_texts(texts), how, end=False).ids
    found = torch.cat([h[int(how.bos) :].flatten(1) for h in states_at(model, encoded, site)])
    return fit_gaussian(found, shrink=shrink, name=name)


def start_rows(
    model: Model, prior: Prior, length: int, sites: Sequence[str], seed: int
) -> tuple[Float[Tensor, "n_sites n width"], Float[Tensor, "n_sites 1 1"]]:
    """Return rows of a prior and what the model makes of them at deeper sites.

    Also the typical size of the model's own states at each site.

    Learned rows move in units of that size: embeddings of different models differ a hundredfold in
    it.

    Raises:
        ValueError: a prior whose rows are no token embeddings of this model; a model that does not
            read rows there as tokens.
    """
    check_rows(model, sites)
    on = readout(model)
    words = vocabulary_prior(model).sample(min(TYPICAL, adapter(model).n_ctx - 1), 0)
    embedded = prior.sample(length, seed).to(on.W_U.device).float()
    if embedded.shape != (length, words.shape[1]):
        raise ValueError(
            f"prior: its rows have shape {tuple(embedded.shape)}, expected ({length}, {words.shape[1]}), token embeddings of "
            "this model"
        )
    typical = states_of(model, on, words, sites).square().mean((1, 2), keepdim=True).sqrt()
    return states_of(model, on, embedded, sites), typical


def states_of(
    model: Model, on: Readout, embedded: Float[Tensor, "n d_model"], sites: Sequence[str]
) -> Float[Tensor, "n_sites n width"]:
    """Return what the model makes of given token embeddings at some sites.

    Raises:
        ValueError: sites of different widths, as the keys of layers that differ in heads or head
            size.
    """
    n = len(embedded)
    tokens = torch.zeros(1, n, dtype=torch.long, device=on.W_U.device)
    here = TokenIndex(
        torch.arange(n, device=tokens.device)[None], torch.tensor([n], device=tokens.device)
    )
    edits = prompt_edits(embedded[None], torch.zeros_like(embedded[None]), "soft", (), 0.0)
    found = []
    with eval_mode(model), apply_edits(model, edits, lambda _, t: here):
        for site in sites:
            state = (
                embedded
                if site == EMBED
                else run_until(model, site, tokens, torch.ones_like(tokens))[0].flatten(1)
            )
            found.append(state.float())
    widths = {state.shape[1]: site for state, site in zip(found, sites, strict=True)}
    if len(widths) > 1:
        each = ", ".join(f"{width} at {site}" for width, site in widths.items())
        raise ValueError(
            f"layers: states have different widths there ({each}), and rows one width for all; pass layers= with those of "
            "one width, or kind='soft'"
        )
    return torch.stack(found)


def _ids(model: Model, texts: Sequence[str]) -> list[list[int]]:
    """Return token ids without begin and end, as the model's texts are read."""
    how = convention(model, readout(model))
    return encode(adapter(model).tokenizer, as_texts(texts), how._replace(bos=False), end=False).ids
