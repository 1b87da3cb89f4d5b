"""Positions of a toy model whose next token is known as a distribution, not as a draw."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steerlens.maths.logits import log_sum_exp
from steerlens.models.collect import collect
from steerlens.models.hooks import Model, adapter
from steerlens.toy import Condition, corpus, default_grammar
from steerlens.toy.batches import build_pieces
from steerlens.toy.expected import expected_ids
from steerlens.values.labelled import Labelled
from steerlens.values.readout import Readout
from steerlens.values.states import States
from steerlens.values.steer import Steer

CHUNK = 2048

Attribute = Literal["sentiment", "tone"]


@dataclass(frozen=True, eq=False)
class Truth:
    """Context vectors of a model over texts of the toy world, with the exact distribution `q` of
    the next token given the words before and the text's own grade.

    Of `q` only what a loss needs is kept: the mean embedding `ē = Σ q_v e_v`, the mean bias, and the
    entropy. The cross-entropy to a softmax over `c' W_U + b` is then

        −Σ q_v log p_v = log Σ exp(c' W_U + b) − c' · ē − Σ q_v b_v

    without the noise of a drawn token.

    Args:
        readout: of the model.
        c: context vectors, `[n, d_model]`.
        mean: mean embeddings under `q`, `[n, d_model]`.
        bias: mean biases under `q`.
        entropy: of `q`, nats.
        label: the grade of each position's text.
        text: the index of each position's text.
        tokens: of each text, words and the end, whatever the model's own tokens are.
        untold: entropy of the grammar that is not told the grade, in expectation under `q`: nats.
    """

    readout: Readout
    c: Float[Tensor, "n d_model"]
    mean: Float[Tensor, "n d_model"]
    bias: Float[Tensor, " n"]
    entropy: Float[Tensor, " n"]
    untold: Float[Tensor, " n"]
    label: Float[Tensor, " n"]
    text: Int[Tensor, " n"]
    tokens: Float[Tensor, " n_texts"]

    def __len__(self) -> int:
        return len(self.c)

    def pick(self, rows: Bool[Tensor, " n"]) -> "Truth":
        """Take some positions."""
        names = ("c", "mean", "bias", "entropy", "untold", "label", "text")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})

    def nll(self, moved: Float[Tensor, "n d_model"]) -> Float[Tensor, " n"]:
        """Return the cross-entropy from `q` to the softmax at other context vectors, nats."""
        head = self.readout.head
        parts = []
        for k in range(0, len(self), CHUNK):
            c, rows = moved[k : k + CHUNK], slice(k, k + CHUNK)
            size = log_sum_exp(torch.addmm(head.b_U, c, head.W_U))
            parts.append(size - (c * self.mean[rows]).sum(1) - self.bias[rows])
        return torch.cat(parts)

    def steered(
        self, steer: Steer | None = None, background: Steer | None = None, *, strength: float = 1.0
    ) -> Float[Tensor, "n d_model"]:
        """Return the context vectors at strength = grade."""
        c = self.c
        moved = c if background is None else c + c @ background.W
        if steer is None:
            return moved
        return moved + strength * self.label[:, None] * (c @ steer.W)

    def by_text(self, x: Float[Tensor, " n"]) -> Float[Tensor, " n_texts"]:
        """Return sums over the positions of each text, float64."""
        total = torch.zeros(len(self.tokens), dtype=torch.float64)
        return total.index_add_(0, self.text, x.double())


def exact_truth(model: Model, attribute: Attribute, *, n: int = 1000, seed: int = 0) -> Truth:
    """Read texts of the toy world, and work out what follows at each position.

    Args:
        model: a toy model.
        attribute: "sentiment" or "tone".
        n: texts, all grades equally often.
        seed: of the texts, as `steerlens.toy.corpus` has it.
    """
    data = corpus(attribute, n=n, seed=seed)
    return truth_of(model, data, attribute, collect(model, data, progress=False))


def truth_of(model: Model, data: Labelled, attribute: Attribute, states: States) -> Truth:
    """Return the truth about texts whose states are known.

    Raises:
        ValueError: the texts are not spelled in the model's ids as the toy world spells them; or a
            read-out with a scale or a soft cap.
    """
    readout = states.readout
    if readout.softcap is not None or readout.scale != 1.0:
        raise ValueError(
            f"model: the read-out of {readout.model_id!r} has scale {readout.scale} and soft cap {readout.softcap}; "
            "expected a toy model, whose logits are c W_U + b_U"
        )
    grammar = default_grammar()
    pieces = build_pieces(grammar, adapter(model).tokenizer, readout.d_vocab)
    chunk = next(states.chunks(1 << 30))
    n, d = len(chunk.text), readout.d_model
    mean, bias = torch.zeros(n, d), torch.zeros(n)
    entropy, untold = torch.zeros(n), torch.zeros(n)
    within = _within(chunk.text)
    labels = np.array(data.labels)
    head = readout.head
    E, b = head.W_U.double().numpy().T, head.b_U.double().numpy()
    for grade in sorted(set(data.labels)):
        mine = np.nonzero(labels == grade)[0]
        texts = [data.texts[i] for i in mine]
        condition = (
            Condition(sentiment=grade) if attribute == "sentiment" else Condition(tone=grade)
        )
        told = expected_ids(grammar, texts, condition, pieces)
        plain = expected_ids(grammar, texts, None, pieces)
        at = np.zeros(len(labels), dtype=int)
        at[mine] = told.offset
        here = torch.from_numpy(labels[chunk.text.numpy()] == grade)
        rows = at[chunk.text[here].numpy()] + within[here].numpy()
        if not np.array_equal(told.following[rows], chunk.next[here].numpy()):
            raise ValueError(
                f"model: {readout.model_id!r} spells the toy world's texts in other ids than {len(pieces.spelling)} "
                "known words; expected one of the toy models"
            )
        mean[here] = torch.from_numpy((told.rows @ E)[rows]).float()
        bias[here] = torch.from_numpy((told.rows @ b)[rows]).float()
        entropy[here] = torch.from_numpy(told.entropy[rows]).float()
        untold[here] = torch.from_numpy(told.cross_entropy(plain)[rows]).float()
    tokens = torch.tensor([len(text.split()) + 1.0 for text in data.texts])
    label = states.labels[chunk.text]
    return Truth(readout, chunk.hidden, mean, bias, entropy, untold, label, chunk.text, tokens)


def _within(text: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Return the place of each position in its own text; positions of a text stand together."""
    new = torch.ones(len(text), dtype=torch.bool)
    new[1:] = text[1:] != text[:-1]
    begin = torch.nonzero(new).squeeze(1)
    return torch.arange(len(text)) - begin[new.long().cumsum(0) - 1]
