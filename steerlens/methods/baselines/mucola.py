"""Sample a whole text by Langevin steps among input embeddings, under a constraint: MuCoLa."""

import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.evaluate.writer import check_base
from steerlens.maths.numbers import as_seed, generator_of
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.methods.baselines.checks import check_settings
from steerlens.methods.baselines.langevin import USUAL, Energy, Langevin, Texts, settle
from steerlens.methods.baselines.sign_classifier import fit_sign
from steerlens.models.adapters import Model
from steerlens.models.decoding import habits
from steerlens.models.embeddings import states_at
from steerlens.models.generate import edited_steps
from steerlens.models.hooks import adapter, check_site, convention, eval_mode
from steerlens.models.pieces import continuation
from steerlens.models.readout import readout
from steerlens.models.sampling import Drawing, Warp
from steerlens.models.score import score
from steerlens.models.tokenization import encode, pad
from steerlens.models.vocabulary import Tokenizer
from steerlens.models.writing import generate_by
from steerlens.values.arguments import check_labelled
from steerlens.values.hook_names import EMBED
from steerlens.values.intervention import UNEMBED_IN
from steerlens.values.labelled import Labelled
from steerlens.values.readout import Readout
from steerlens.values.texts import as_name

LOGITS = 1 << 25
"""Logits that are held at once."""


@dataclass(frozen=True, eq=False)
class Mucola:
    """A text of the model's own, moved as a whole until a classifier takes it for the side of the
    strength's sign. All its embeddings `e` step at once, and each lands on a row of the table `E`:

        y ← argmin_v ‖E_v − (e − η ∇U + √(2η) σ ξ)‖        ξ ~ N(0, 1), σ falling
        U = −log p(y | prompt) + λ (|s| m − side · log-odds)        λ ≥ 0 rises where s is not met

    Of the texts that meet the constraint the likeliest is written; where the model's own text meets
    it, or none does, the model's own. A `steerlens.evaluate.writer.Writer` without
    next-token distribution: nothing but strength 0 has a log-probability or a cost in KL. Strength
    1 is the authors' threshold, `m`. Made by `fit_mucola`.

    Args:
        w, b: of the classifier, `log-odds = x̄ w + b`, with `x̄` the mean context of prompt and text
            and, behind it, their mean embedding.
        readout: of the model.
        langevin: how the chain runs.
        name: for tables and figures.
    """

    w: Float[Tensor, " d_both"]
    b: float
    readout: Readout
    langevin: Langevin = USUAL
    name: str = "mucola"

    @property
    def n_parameters(self) -> int:
        """Numbers that were fitted: the classifier's."""
        return self.w.numel() + 1

    @torch_defaults()
    def generate(
        self,
        model: Model,
        prompts: Iterable[str],
        *,
        strengths: float | Iterable[float] = (1.0,),
        samples: int = 1,
        seed: int = 0,
        max_new_tokens: int = 30,
        top_p: float = 1.0,
    ) -> pd.DataFrame:
        """Continue prompts; see `steerlens.evaluate.writer.Writer`. One column more, `met`, says
        which texts meet the constraint."""
        check_base(self, model)
        check_site(model, EMBED)
        drawing = Drawing(samples, seed, max_new_tokens, Warp(top_p=top_p))
        plain = edited_steps(model, None)
        drawn = generate_by(model, prompts, plain, strengths, drawing, as_text=_spelled)
        rows = [_Row(*json.loads(text)) for text in drawn.text]
        ends, tokenizer = adapter(model).end_ids, adapter(model).tokenizer
        by = drawn.strength.to_numpy()
        moved = [k for k, row in enumerate(rows) if by[k] and row.new and row.new[0] not in ends]
        energy, met = Energy(model, self.readout, self.w, self.b), by == 0
        for places in _batches(model, rows, moved):
            texts = _texts(model, [rows[k] for k in places], by[places] * self.langevin.margin)
            noise = [
                generator_of(f"{as_seed(seed)} {drawn['sample'][k]} {drawn.text[k]}")
                for k in places
            ]
            with eval_mode(model, gradients=True):
                tokens, met[places] = settle(energy, self.langevin, texts, noise)
            for k, ids in zip(places, tokens.tolist(), strict=True):
                rows[k] = rows[k]._replace(new=ids[len(ids) - len(rows[k].new) :])
        return drawn.assign(
            text=[continuation(tokenizer, row.prompt, row.new) for row in rows],
            log_prob=drawn.log_prob.where(by == 0),
            met=met,
        )

    def score(
        self,
        model: Model,
        texts: Labelled | Iterable[str],
        *,
        strengths: float | Iterable[float] = (1.0,),
        end: bool = True,
    ) -> pd.DataFrame:
        """Score texts; see `steerlens.evaluate.writer.Writer`. There is no next-token distribution,
        so `log_prob` and `kl` are NaN at every strength but 0, where they are the model's."""
        check_base(self, model)
        table = score(model, texts, strengths=strengths, end=end).assign(kl=0.0)
        return table.assign(
            **{name: table[name].where(table.strength == 0) for name in ("log_prob", "kl")}
        )

    def __repr__(self) -> str:
        r = self.readout
        return f"Mucola({self.name!r}, {self.langevin}, on {r.model_id!r} [{r.digest[:8]}])"


class _Row(NamedTuple):
    prompt: list[int]
    new: list[int]


def _spelled(_: Tokenizer, prompt: Sequence[int], new: Sequence[int]) -> str:
    """Spell what was written by its numbers, so that it comes back as tokens."""
    return json.dumps([list(prompt), list(new)])


def _batches(model: Model, rows: Sequence[_Row], moved: list[int]) -> list[list[int]]:
    """Put texts of like length together, as many as memory bears; only of one length where a model
    hears padding."""
    length = {k: len(rows[k].prompt) + len(rows[k].new) for k in moved}
    groups: dict[int, list[int]] = {}
    for k in sorted(moved, key=lambda k: len(rows[k].new)):
        groups.setdefault(0 if habits(model).pads else length[k], []).append(k)
    found = []
    for group in groups.values():
        size = max(LOGITS // (readout(model).d_vocab * max(len(rows[k].new) for k in group)), 1)
        found += [group[start : start + size] for start in range(0, len(group), size)]
    return found


def _texts(model: Model, rows: Sequence[_Row], wanted: Float[np.ndarray, " rows"]) -> Texts:
    device = adapter(model).W_U.device
    tokens, mask = pad([[*row.prompt, *row.new] for row in rows], left=True)
    width = max(len(row.new) for row in rows)
    lengths = torch.tensor([len(row.new) for row in rows])[:, None]
    ended = torch.isin(tokens[:, -1:], torch.tensor(sorted(adapter(model).end_ids)))
    last = torch.arange(width) == width - 1
    new = torch.arange(width) >= width - lengths
    counts = mask.bool() & ~(ended & (torch.arange(tokens.shape[1]) == tokens.shape[1] - 1))
    s = torch.tensor(wanted, dtype=torch.float32)
    parts = (tokens, mask, counts, new, new & ~(ended & last), s.sign(), s.abs())
    return Texts(*(t.to(device) for t in parts))


def mean_features(model: Model, data: Labelled) -> Float[np.ndarray, "n d_both"]:
    """Return the mean context of each text, and behind it its mean embedding."""
    how = convention(model, readout(model))
    ids = encode(
        adapter(model).tokenizer, list(data.texts), how, end=False, prompts=data.prompts
    ).ids
    means = [[h.mean(0) for h in states_at(model, ids, site)] for site in (UNEMBED_IN, EMBED)]
    return torch.cat([torch.stack(part) for part in means], 1).numpy()


@torch_defaults()
def fit_mucola(
    model: Model, data: Labelled, *, langevin: Langevin = USUAL, name: str = "mucola"
) -> Mucola:
    """Fit the classifier whose verdict MuCoLa makes a constraint: logistic regression of a label's
    sign on the mean context and the mean embedding of its text.

    The classifier must read the embeddings that the model reads; here the model itself is its body
    (the authors train a RoBERTa on the frozen table of GPT-2 large, 898M numbers in all). The price
    is paid in writing: a pass forward and back over the whole text per step, for each text that
    does not meet the constraint by itself. Start, noise and multiplier are those of the authors'
    scripts. Other than there the likeliest text is taken, not the last that stood still (much more
    fluent), special tokens are never written, and a text keeps its length and its end.

    Source: Kumar et al. (arXiv 2205.12558), algorithm 1; settings of github.com/Sachin19/mucoco,
    examples/prompt.

    Args:
        model: of TransformerLens or of Hugging Face; unchanged.
        data: labelled texts; how large a label is does not count, and those with label 0 do not.
        langevin: how the chain runs.

    Raises:
        ValueError: fewer than two texts of a sign.

    Example:
        >>> import steerlens as sl
        >>> model, data = sl.load_model("toy-64"), sl.toy.corpus("tone", n=800, seed=0)
        >>> fit_mucola(model, data).n_parameters
        129
    """
    check_labelled(data)
    check_settings(langevin, "langevin", USUAL)
    name = as_name(name)
    x = mean_features(model, data)
    w, b = fit_sign(x, np.array(data.labels))
    surest = float(np.abs(x @ w.numpy() + b).max())
    if surest < langevin.margin:
        warnings.warn(
            f"data: of no text is the classifier surer than {surest:.2g} nats, the margin is "
            f"{langevin.margin:g}, so hardly a text will meet it; give more texts, or a smaller "
            "margin: langevin=Langevin(margin=…)",
            stacklevel=3,  # beyond `torch_defaults`
        )
    return Mucola(w, b, readout(model), langevin, name)
