"""Fitting an intervention by descent on the signed objective: what such fits share."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm

from steerlens.maths.head import nll_gradient, post, token_nll
from steerlens.models.attach import check_lives_on
from steerlens.models.resume import Kept, batch_of, final_states
from steerlens.models.sites import Model, evaluating
from steerlens.values.fit import Fit, Report
from steerlens.values.intervention import Edit
from steerlens.values.losses import Measured, Ways, tally
from steerlens.values.steer import Steer, zero_steer
from steerlens.values.verdict import judge_heldout

CHUNK = 1024
"""Positions whose logits are in memory at once, in training."""
BATCH_TOKENS = 2048
"""Padded tokens a batch of a measurement: six arrays of logits of them are held at once."""

Editing = Callable[[Sequence[int], Float[Tensor, " batch"]], tuple[Edit, ...]]
"""The edits of some texts, at a strength each."""


class Schedule(NamedTuple):
    """How to descend; the arguments of `fit_reft` and `fit_prompt` of the same names."""

    step: float
    epochs: int
    batch: int
    weight_decay: float
    patience: int
    seed: int
    progress: bool

    def checked(self) -> "Schedule":
        """Itself.

        Raises:
            ValueError: a number out of range.
        """
        for label, good, expected in (
            ("step", self.step > 0, "a number > 0, e.g. 0.005"),
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch", self.batch >= 1, "at least 1"),
            ("weight_decay", self.weight_decay >= 0, "a number ≥ 0"),
            ("patience", self.patience >= 1, "at least 1"),
        ):
            if not good:
                raise ValueError(f"{label}: got {getattr(self, label)}, expected {expected}")
        return self


class Data(NamedTuple):
    """Texts to fit to and a tenth of them to hold out, and the steer that is always on."""

    kept: Kept
    fitting: list[int]
    heldout: list[int]
    background: Steer


def split(model: Model, kept: Kept, background: Steer | None, seed: int) -> Data:
    """Random parts of the texts that have something to predict.

    Raises:
        ValueError: fewer than four of them, or a background that lives on another model.
    """
    if background is not None:
        check_lives_on(background, model)
    able = [row for row, ids in enumerate(kept.ids) if len(ids) > kept.prompt[row]]
    if len(able) < 4:
        raise ValueError(
            f"data: got {len(able)} texts with something to predict, expected at least 4 (some hundreds for a fit worth having)"
        )
    order = torch.randperm(len(able), generator=torch.Generator().manual_seed(seed)).tolist()
    cut = max(len(able) // 10, 1)
    return Data(
        kept,
        [able[i] for i in order[cut:]],
        [able[i] for i in order[:cut]],
        background or zero_steer(kept.readout, "no background"),
    )


class Descent(NamedTuple):
    """Held-out loss after each epoch, and how often the texts were read; the parameters hold the best epoch's numbers."""

    trials: tuple[dict[str, float], ...]
    passes: float


def descend(
    model: Model,
    data: Data,
    parameters: Sequence[nn.Parameter],
    training: Editing,
    judged: Editing,
    schedule: Schedule,
    penalty: Callable[[float], Tensor | None] = lambda progress: None,
    name: str = "fit",
) -> Descent:
    """`descend_on` the NLL of texts, each edited at its own label.

    Args:
        parameters: what is learned; changed in place.
        training, judged: the edits, with gradients to the parameters; the second without what belongs to training alone.
        penalty: added to the loss at each step, given the share of the fit that is done.
    """
    kept = data.kept

    def pull(texts: Sequence[int], progress: float) -> None:
        batch = batch_of(kept, texts)
        c = final_states(model, kept, batch, training(texts, batch.labels))
        weight = torch.full((len(c),), 1 / len(c), device=c.device)
        backward(kept, c, batch.targets, weight, data.background, penalty(progress))

    return descend_on(
        model, kept, data.fitting, parameters, pull, lambda: nll(model, data, data.heldout, judged), schedule, name=name
    )


def descend_on(
    model: Model,
    kept: Kept,
    fitting: Sequence[int],
    parameters: Sequence[nn.Parameter],
    pull: Callable[[Sequence[int], float], None],
    judge: Callable[[], float],
    schedule: Schedule,
    *,
    loss: str = "heldout_nll",
    name: str = "fit",
) -> Descent:
    """Adam with a step that falls to zero; the numbers with the best held-out loss are kept.

    Args:
        fitting: the texts to fit to.
        parameters: what is learned; changed in place.
        pull: adds to the parameters the gradients of the loss of some texts, given the share of the fit that is done.
        judge: the held-out loss.
        loss: what it is called in the trials.
    """
    device = kept.readout.W_U.device
    optimiser = torch.optim.AdamW(parameters, lr=schedule.step, weight_decay=schedule.weight_decay)
    total = schedule.epochs * -(-len(fitting) // schedule.batch)
    falling = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda k: min(1.0, 10 * (k + 1) / total) * (1 - k / total))
    random = torch.Generator().manual_seed(schedule.seed)
    best, best_at, at = [p.detach().clone() for p in parameters], 0, 0
    trials = [{"epoch": 0.0, loss: judge()}]
    with (
        # dropout draws from the global generator, which is left as it was
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        tqdm(total=total, unit="step", desc=name, disable=not schedule.progress) as bar,
    ):
        torch.manual_seed(schedule.seed)
        for epoch in range(1, schedule.epochs + 1):
            with evaluating(model, gradients=True):
                for texts in _shuffled(kept, fitting, schedule.batch, random):
                    optimiser.zero_grad()
                    pull(texts, at / total)
                    optimiser.step()
                    falling.step()
                    at += 1
                    bar.update()
            trials.append({"epoch": float(epoch), loss: judge()})
            bar.set_postfix({loss: f"{trials[-1][loss]:.4f}"})
            if trials[-1][loss] < trials[best_at][loss]:
                best, best_at = [p.detach().clone() for p in parameters], epoch
            elif epoch - best_at >= schedule.patience:
                break
    with torch.no_grad():
        for p, value in zip(parameters, best, strict=True):
            p.copy_(value)
    return Descent(tuple(trials), float(len(trials) - 1))


def backward(
    kept: Kept,
    c: Float[Tensor, "n d"],
    targets: Int[Tensor, " n"],
    weight: Float[Tensor, " n"],
    background: Steer,
    extra: Tensor | None = None,
) -> None:
    """Gradients of `Σ w · NLL`, and of a term beside it: by hand through the unembedding, by autograd below."""
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
    """Mean NLL in nats per token, each text edited at its own label, over the background."""
    head, D = data.kept.readout.head, data.background.W
    total, n = 0.0, 0
    with evaluating(model):
        for picked in data.kept.batches(texts):
            batch = batch_of(data.kept, picked)
            c = final_states(model, data.kept, batch, made(picked, batch.labels))
            z = (c + c @ D) @ head.W_U + head.b_U
            total += float(token_nll(post(head, z), batch.targets).double().sum())
            n += len(c)
    return total / n


def measure_edit(model: Model, data: Data, texts: Sequence[int], made: Editing) -> Measured:
    """Mean NLL in nats per token, base, background, edited and flipped, and KL at ±1; five passes above the layer.

    Base is strength 0, which for a prompt is the neutral one.
    """
    kept, D = data.kept, data.background.W
    head = kept.readout.head

    def ways() -> Iterator[Ways]:
        for picked in kept.batches(texts, BATCH_TOKENS):
            batch = batch_of(kept, picked)
            y, one = batch.labels, torch.ones_like(batch.labels)
            plain, right, wrong, up, down = (
                final_states(model, kept, batch, made(picked, s)) for s in (0 * one, y, -y, one, -one)
            )
            text = torch.tensor(picked, device=y.device)[:, None].expand_as(batch.real)[batch.real]
            over = [c + c @ D for c in (plain, right, wrong)]
            states = (plain, *over, up, down)
            yield Ways(batch.targets, text, lambda part, states=states: [c @ part.W_U + part.b_U for c in states])

    counted = torch.zeros(len(kept), dtype=torch.long)
    for row in texts:
        counted[row] = len(kept.ids[row]) - int(kept.prompt[row])
    with evaluating(model):
        return tally(head, ways(), kept.labels, counted)


def described(
    model: Model,
    data: Data,
    value: Any,
    made: Editing,
    found: Descent,
    schedule: Schedule,
    settings: dict[str, Any],
    started: float,
) -> Fit[Any]:
    """The fit of a value: its losses on held-out and training texts, and how it came about."""
    measured, on_train = (
        measure_edit(model, data, texts, made) for texts in (data.heldout, data.fitting[: len(data.heldout)])
    )
    kept = data.kept
    held = torch.zeros(len(kept), dtype=torch.long)
    for row in data.heldout:
        held[row] = len(kept.ids[row]) - int(kept.prompt[row])
    positions = torch.tensor([len(ids) for ids in kept.ids]) - kept.prompt
    report = Report(
        solver="adam", heldout=measured.all, train=on_train.all, by_label=measured.by_label, kl=measured.kl,
        verdict=judge_heldout(measured, kept.labels.cpu(), held, 0.0, schedule.seed),
        objective=None, gap=None, gap_reason="the problem is not convex", passes=found.passes,
        seconds=time.perf_counter() - started, n_texts=len(kept), n_positions=int(positions.clamp_min(0).sum()),
        n_truncated=kept.n_truncated, seed=schedule.seed, rank=settings.get("rank"), step=schedule.step, trials=found.trials,
        settings=settings | {"batch": schedule.batch, "step": schedule.step, "weight_decay": schedule.weight_decay},
    )  # fmt: skip
    return Fit(value, data.background, report)


def _shuffled(kept: Kept, rows: Sequence[int], size: int, random: torch.Generator) -> Iterator[list[int]]:
    """Batches in random order, of texts of similar length drawn from a few batches' worth of random ones."""
    order = [rows[i] for i in torch.randperm(len(rows), generator=random).tolist()]
    found = []
    for start in range(0, len(order), 16 * size):
        window = sorted(order[start : start + 16 * size], key=lambda row: len(kept.ids[row]))
        found += [window[i : i + size] for i in range(0, len(window), size)]
    return (found[i] for i in torch.randperm(len(found), generator=random).tolist())
