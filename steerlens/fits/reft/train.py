"""Learning an edit by descent."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm

from steerlens.fits.reft.learned import TOP, Learned, Shape
from steerlens.fits.reft.measure import nll
from steerlens.maths.head import nll_and_gradient
from steerlens.maths.reft import top_mean
from steerlens.models.resume import Kept, batch_of, final_states
from steerlens.models.sites import Model, evaluating, run_to
from steerlens.values.intervention import Edit
from steerlens.values.positions import Places, parse_positions
from steerlens.values.reft import resid_post
from steerlens.values.steer import Steer

IDLE = 0.005
"""Weight of the r1 activations that are not among the largest, ramped up over the fit, as in AxBench."""
CHUNK = 1024
"""Positions whose logits are in memory at once."""


class Schedule(NamedTuple):
    """How to descend; see `fit_reft`."""

    step: float
    epochs: int
    batch: int
    dropout: float
    weight_decay: float
    patience: int
    seed: int
    progress: bool


def train(
    model: Model,
    kept: Kept,
    fitting: Sequence[int],
    heldout: Sequence[int],
    rows: Float[Tensor, "n_texts rank"] | None,
    shape: Shape,
    background: Steer,
    schedule: Schedule,
) -> tuple[Learned, tuple[dict[str, float], ...], int]:
    """The numbers with the best held-out NLL, that NLL after each epoch, and the steps taken."""
    device = kept.readout.W_U.device
    learned = Learned(shape, mean_states(model, kept, fitting, shape.layers), schedule.seed)
    optimiser = torch.optim.AdamW(learned.parameters(), lr=schedule.step, weight_decay=schedule.weight_decay)
    a_pass = -(-len(fitting) // schedule.batch)
    total = schedule.epochs * a_pass
    falling = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda k: min(1.0, 10 * (k + 1) / total) * (1 - k / total))
    random = torch.Generator().manual_seed(schedule.seed)

    def heldout_nll() -> float:
        return nll(model, kept, heldout, lambda texts, s: learned.edits(s, _of(rows, texts, s.device), []), background)

    best, best_at, at = learned.snapshot(), 0, 0
    trials = [{"epoch": 0.0, "heldout_nll": heldout_nll()}]
    with (
        torch.random.fork_rng(
            devices=[device] if device.type == "cuda" else []
        ),  # dropout draws from the global generator
        tqdm(total=total, unit="step", desc="fit_reft", disable=not schedule.progress) as bar,
    ):
        torch.manual_seed(schedule.seed)
        for epoch in range(1, schedule.epochs + 1):
            with evaluating(model, gradients=True):
                for texts in _shuffled(kept, fitting, schedule.batch, random):
                    optimiser.zero_grad()
                    idle: list[Tensor] = []
                    batch = batch_of(kept, texts)
                    edits = learned.edits(batch.labels, _of(rows, texts, device), idle)
                    if schedule.dropout:
                        edits = _dropping(edits, shape.positions, schedule.dropout)
                    c = final_states(model, kept, batch, edits)
                    backward(kept, c, batch.targets, torch.full((len(c),), 1 / len(c), device=device), background)
                    for rest in idle:
                        (IDLE * (at / total) * rest.mean()).backward()
                    optimiser.step()
                    falling.step()
                    at += 1
                    bar.update()
            trials.append({"epoch": float(epoch), "heldout_nll": heldout_nll()})
            bar.set_postfix(heldout_nll=f"{trials[-1]['heldout_nll']:.4f}")
            if trials[-1]["heldout_nll"] < trials[best_at]["heldout_nll"]:
                best, best_at = learned.snapshot(), epoch
            elif epoch - best_at >= schedule.patience:
                break
    learned.restore(best)
    return learned, tuple(trials), at


def backward(
    kept: Kept, c: Float[Tensor, "n d"], targets: Int[Tensor, " n"], weight: Float[Tensor, " n"], background: Steer
) -> None:
    """Gradients of `Σ w · NLL`: by hand through the unembedding, by autograd below."""
    head, D = kept.readout.head, background.W
    found = c.detach()
    gradient = torch.empty_like(found)
    for start in range(0, len(c), CHUNK):
        part = slice(start, start + CHUNK)
        _, g = nll_and_gradient(head, found[part] + found[part] @ D, targets[part], weight[part])
        gradient[part] = g + g @ D.mT
    c.backward(gradient, retain_graph=True)


def _shuffled(kept: Kept, rows: Sequence[int], size: int, random: torch.Generator) -> Iterator[list[int]]:
    """Batches in random order, of texts of similar length drawn from a few batches' worth of random ones."""
    order = [rows[i] for i in torch.randperm(len(rows), generator=random).tolist()]
    found = []
    for start in range(0, len(order), 16 * size):
        window = sorted(order[start : start + 16 * size], key=lambda row: len(kept.ids[row]))
        found += [window[i : i + size] for i in range(0, len(window), size)]
    return (found[i] for i in torch.randperm(len(found), generator=random).tolist())


def _of(rows: Tensor | None, texts: Sequence[int], device: torch.device) -> Tensor | None:
    return None if rows is None else rows[list(texts)].to(device)


def _dropping(edits: tuple[Edit, ...], positions: str, share: float) -> tuple[Edit, ...]:
    """Dropout of the whole edited state, where it is edited."""
    where = parse_positions(positions)

    def dropped(edit):
        def run(h: Tensor, places: Places) -> Tensor:
            found = edit(h, places)
            beginning, end = where.masks(places)
            return torch.where((beginning | end)[..., None], nn.functional.dropout(found, share), found)

        return run

    return tuple((site, dropped(edit)) for site, edit in edits)


def mean_states(model: Model, kept: Kept, texts: Sequence[int], layers: Sequence[int]) -> Float[Tensor, "n_layers d"]:
    """The mean state behind each layer, over some texts."""
    some = kept.batches(texts[:64])
    found = []
    with evaluating(model):
        for layer in layers:
            total, n = torch.zeros(()), 0
            for picked in some:
                batch = batch_of(kept, picked)
                h = run_to(model, resid_post(layer), batch.tokens, batch.mask).float()[batch.mask.bool()]
                total, n = total.to(h) + h.sum(0), n + len(h)
            found.append(total / n)
    return torch.stack(found)


def activations(
    model: Model, kept: Kept, texts: Sequence[int], layer: int, v: Float[Tensor, " d"]
) -> tuple[float, float]:
    """The mean over texts of what r1 added in training, and the largest activation of a token."""
    sizes, largest = [], 0.0
    with evaluating(model):
        for picked in kept.batches(texts):
            batch = batch_of(kept, picked)
            h = run_to(model, resid_post(layer), batch.tokens, batch.mask).float()
            sizes.append(top_mean(h, v.to(h), batch.mask.to(h), TOP)[0])
            largest = max(largest, float((torch.relu(h @ v.to(h)) * batch.mask).max()))
    return float(torch.cat(sizes).mean()), largest
