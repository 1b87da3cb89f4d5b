"""Positions of a toy model whose next token is known as a distribution, not as a draw."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steerlens.maths.brief import class_name
from steerlens.maths.logits import log_sum_exp
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.models.collect import collect
from steerlens.models.hooks import Model, adapter
from steerlens.toy import Condition, corpus, default_grammar
from steerlens.toy.batches import build_pieces
from steerlens.toy.corpus import Attribute
from steerlens.toy.expected import ExpectedIds, expected_ids
from steerlens.values.arguments import background_of, check_labelled, steer_of
from steerlens.values.fit import Fit
from steerlens.values.labelled import Labelled
from steerlens.values.readout import Readout
from steerlens.values.states import States, check_states
from steerlens.values.steer import Steer
from steerlens.values.texts import as_choice

CHUNK = 2048


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
        self,
        steer: Steer | Fit | None = None,
        background: Steer | None = None,
        *,
        strength: float = 1.0,
    ) -> Float[Tensor, "n d_model"]:
        """Return the context vectors at strength = grade."""
        c = self.c
        moved = c if background is None else c + c @ background_of(background).W
        if steer is None:
            return moved
        return moved + strength * self.label[:, None] * (c @ steer_of(steer).W)

    def by_text(self, x: Float[Tensor, " n"]) -> Float[Tensor, " n_texts"]:
        """Return sums over the positions of each text, float64."""
        total = torch.zeros(len(self.tokens), dtype=torch.float64)
        return total.index_add_(0, self.text, x.double())


def check_truth(truth: Any, name: str = "truth") -> None:
    """Raise where something else than a truth was given."""
    if not isinstance(truth, Truth):
        raise ValueError(
            f"{name}: got {class_name(truth)}, expected a Truth; exact_truth(model, attribute) makes one"
        )


@torch_defaults()
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


@torch_defaults()
def truth_of(model: Model, data: Labelled, attribute: Attribute, states: States) -> Truth:
    """Return the truth about texts whose states are known.

    Args:
        model: a toy model.
        data: texts of the toy world, labelled with their grades.
        attribute: whose grades they are.
        states: of these texts, from `collect`.

    Raises:
        ValueError: states of other texts, a model with its own spelling of the toy world's words, a
            read-out with a scale or a soft cap.
    """
    as_choice(attribute, "attribute", get_args(Attribute))
    check_labelled(data)
    check_states(states)
    on = states.readout
    if on.softcap is not None or on.scale != 1.0:
        raise ValueError(
            f"model: the read-out of {on.model_id!r} has scale {on.scale} and soft cap {on.softcap}; "
            "expected a toy model, whose logits are c W_U + b_U"
        )
    pieces = build_pieces(default_grammar(), adapter(model).tokenizer, on.d_vocab)
    c, following, text = (torch.cat(part) for part in zip(*states.chunks(1 << 16), strict=True))
    labels, within = torch.tensor(data.labels)[text], _within(text)
    known = _Known(*(torch.zeros(len(c), *width) for width in ((on.d_model,), (), (), ())))
    for grade in sorted(set(data.labels)):
        mine = [i for i, label in enumerate(data.labels) if label == grade]
        texts = [data.texts[i] for i in mine]
        told, plain = (
            expected_ids(default_grammar(), texts, condition, pieces)
            for condition in (_condition(attribute, grade), None)
        )
        offset = torch.zeros(len(data.labels), dtype=torch.long)
        offset[mine] = torch.from_numpy(told.offset)
        here = torch.nonzero(labels == grade).squeeze(1)
        rows = (offset[text[here]] + within[here]).numpy()
        if (
            len(rows) != len(told.following)
            or rows.max() >= len(rows)
            or (told.following[rows] != following[here].numpy()).any()
        ):
            raise ValueError(
                f"states: they are of other texts than data, or {on.model_id!r} spells words in its own way; "
                "expected collect(model, data) of a toy model"
            )
        for into, found in zip(known, _moments(told, plain, on), strict=True):
            into[here] = torch.from_numpy(found[rows]).float()
    tokens = torch.tensor([len(one.split()) + 1.0 for one in data.texts])
    return Truth(on, c, *known, labels.float(), text, tokens)


class _Known(NamedTuple):
    """What `Truth` keeps of the distributions."""

    mean: Float[Tensor, "n d_model"]
    bias: Float[Tensor, " n"]
    entropy: Float[Tensor, " n"]
    untold: Float[Tensor, " n"]


def _moments(told: ExpectedIds, plain: ExpectedIds, on: Readout) -> tuple[np.ndarray, ...]:
    head = on.head
    E, b = head.W_U.double().numpy().T, head.b_U.double().numpy()
    return told.rows @ E, told.rows @ b, told.entropy, told.cross_entropy(plain)


def _condition(attribute: Attribute, grade: float) -> Condition:
    return Condition(sentiment=grade) if attribute == "sentiment" else Condition(tone=grade)


def _within(text: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Return the place of each position in its own text; positions of a text stand together."""
    new = torch.ones(len(text), dtype=torch.bool)
    new[1:] = text[1:] != text[:-1]
    begin = torch.nonzero(new).squeeze(1)
    return torch.arange(len(text)) - begin[new.long().cumsum(0) - 1]
