"""Texts to fit to, and what an edit does to them."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.evaluate.losses import Ways, tally
from steerlens.maths.logits import apply_softcap, nll_gradient, token_nll
from steerlens.maths.numbers import generator
from steerlens.models.hooks import Model, eval_mode
from steerlens.models.partial_forward import ResidualCache, batch_of, final_states
from steerlens.models.steering import check_lives_on
from steerlens.values.arguments import background_of
from steerlens.values.copies import group_rows
from steerlens.values.intervention import Edit
from steerlens.values.losses import Measured
from steerlens.values.steer import Steer, zero_steer

HELDOUT = 100
"""Texts that are held out, where that is no more than a fifth of all."""
CHUNK = 1024
"""Positions whose logits are in memory at once, in training."""
BATCH_TOKENS = 2048
"""Padded tokens a batch of a measurement: six arrays of logits of them are held at once."""

Editing = Callable[[Sequence[int], Float[Tensor, " batch"]], tuple[Edit, ...]]
"""The edits of some texts, at a strength each."""


class Data(NamedTuple):
    """Texts to fit to and texts to hold out, and the steer that is always on."""

    kept: ResidualCache
    fitting: list[int]
    heldout: list[int]
    background: Steer
    copy_of: Int[Tensor, " n_texts"]
    """Of each text the first with the same tokens; copies are in one part, one after the other."""

    @property
    def n_predicted(self) -> Int[Tensor, " n_texts"]:
        """Tokens of each text that are predicted: all but those of its prompt."""
        lengths = torch.tensor([len(ids) for ids in self.kept.ids]) - self.kept.prompt.cpu()
        return lengths.clamp_min(0)

    @property
    def middle(self) -> float:
        """Where labels are mirrored: in the middle of their range they stay within what was
        trained."""
        labels = self.kept.labels[self.fitting + self.heldout]
        return float(labels.max() + labels.min()) / 2

    def swapped(self) -> "Data":
        """Return the parts with as many other texts held out, those that were to be fitted to."""
        n, of = len(self.heldout), self.copy_of.tolist()
        while n < len(self.fitting) - 1 and of[self.fitting[n]] == of[self.fitting[n - 1]]:
            n += 1
        return self._replace(fitting=self.heldout + self.fitting[n:], heldout=self.fitting[:n])


def split(model: Model, kept: ResidualCache, background: Steer | None, seed: int) -> Data:
    """Return random parts of the texts that have something to predict.

    A tenth is held out, of few texts up to a fifth: what labels say of a text is small beside what
    texts differ in, and of fifty held-out texts one fit in ten would look worse than nothing.
    Copies of a text are in one part.

    Raises:
        ValueError: fewer than four of them, or a background that lives on another model.
    """
    if background is not None:
        background = background_of(background)
        check_lives_on(background, model, "background")
    # one that is held out must not be known by its copy
    copies = group_rows(zip(kept.ids, kept.prompt.tolist(), strict=True))
    copy_of = torch.empty(len(kept.ids), dtype=torch.long)
    for rows in copies:
        copy_of[rows] = rows[0]
    able = [rows for rows in copies if len(kept.ids[rows[0]]) > kept.prompt[rows[0]]]
    if len(able) < 4:
        raise ValueError(
            f"data: got {len(able)} texts with something to predict, expected at least 4 (some hundreds for a fit worth having)"
        )
    order = torch.randperm(len(able), generator=generator(seed)).tolist()
    cut = max(len(able) // 10, min(len(able) // 5, HELDOUT), 1)
    return Data(
        kept,
        [row for i in order[cut:] for row in able[i]],
        [row for i in order[:cut] for row in able[i]],
        background or zero_steer(kept.readout, "no background"),
        copy_of,
    )


def backward(
    kept: ResidualCache,
    c: Float[Tensor, "n d"],
    targets: Int[Tensor, " n"],
    weight: Float[Tensor, " n"],
    background: Steer,
    extra: Tensor | None = None,
) -> None:
    """Backpropagate `Σ w · NLL`, and a term beside it.

    By hand through the unembedding, by autograd below.
    """
    head, D = kept.readout.head, background.W
    found = c.detach()
    gradient = torch.empty_like(found)
    for start in range(0, len(c), CHUNK):
        part = slice(start, start + CHUNK)
        g = nll_gradient(head, found[part] + found[part] @ D, targets[part], weight[part])
        gradient[part] = g + g @ D.mT
    if extra is None:
        c.backward(gradient)
    else:
        torch.autograd.backward([c, extra], [gradient, torch.ones_like(extra)])


def nll(model: Model, data: Data, texts: Sequence[int], made: Editing) -> float:
    """Return the mean NLL in nats per token, each text edited at its own label.

    Over the background.
    """
    nats = nll_by_text(model, data, texts, made)
    return float(nats.sum() / data.n_predicted[list(texts)].sum())


def nll_by_text(
    model: Model, data: Data, texts: Sequence[int], made: Editing
) -> Float[Tensor, " n"]:
    """Return the NLL of each of some texts in nats, edited at its own label, over the
    background."""
    head, D = data.kept.readout.head, data.background.W
    total = torch.zeros(len(data.kept), dtype=torch.float64)
    with eval_mode(model):
        for picked in data.kept.batches(texts):
            batch = batch_of(data.kept, picked)
            c = final_states(model, data.kept, batch, made(picked, batch.labels))
            z = (c + c @ D) @ head.W_U + head.b_U
            nats = token_nll(apply_softcap(head, z), batch.targets).double()
            total.index_add_(0, batch.owners(picked).cpu(), nats.cpu())
    return total[list(texts)]


def measure_edit(
    model: Model,
    data: Data,
    texts: Sequence[int],
    made: Editing,
    strength: float = 1.0,
    middle: float = 0.0,
) -> Measured:
    """Return the mean NLL in nats per token, base, background, edited and flipped, and KL at ±1.

    Five passes above the layer.

    Base is strength 0, which for a prompt is the neutral one; edited is at `strength` times the
    label, flipped at that of its mirror image in `middle`.
    """
    kept, D = data.kept, data.background.W
    head = kept.readout.head

    def ways() -> Iterator[Ways]:
        for picked in kept.batches(texts, BATCH_TOKENS):
            batch = batch_of(kept, picked)
            y, one = strength * batch.labels, torch.ones_like(batch.labels)
            turned = 2 * strength * middle - y
            plain, right, wrong, up, down = (
                final_states(model, kept, batch, made(picked, s))
                for s in (0 * one, y, turned, one, -one)
            )
            over = [c + c @ D for c in (plain, right, wrong)]
            states = (plain, *over, up, down)
            yield Ways(batch.targets, batch.owners(picked), states, torch.eye(len(states)).tolist())

    counted, some = torch.zeros(len(kept), dtype=torch.long), list(texts)
    counted[some] = data.n_predicted[some]
    with eval_mode(model):
        return tally(head, ways(), kept.labels, counted)
