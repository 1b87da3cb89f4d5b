"""The descent itself, and the fit it leads to."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from tqdm.auto import tqdm

from steerlens.evaluate.verdict import Heldout, judge_heldout
from steerlens.maths.numbers import generator
from steerlens.methods.training.texts import Data, Editing, backward, measure_edit, nll_by_text
from steerlens.models.hooks import Model, eval_mode
from steerlens.models.partial_forward import ResidualCache, batch_of, final_states
from steerlens.values.fit import Fit, Report
from steerlens.values.progress import hidden
from steerlens.values.training import Training
from steerlens.values.warn import warn_user

STRENGTHS = (1.0, 0.5, 0.25)
"""What a label of 1 may ask for: training makes the edit as long as its own texts want it, which is
too long for others."""


class Schedule(NamedTuple):
    """How to descend, with the fit's own learning rate, and what the bar and the warning call
    it.

    `informed`: the start was fitted to the same texts. It may be what is kept, and others must not be
    held out in its place.
    """

    training: Training
    lr: float
    seed: int
    progress: bool
    name: str
    informed: bool = False


Sized = tuple[nn.Parameter, float]
"""A parameter, and the unit in which its learning rate is measured."""


class Descent(NamedTuple):
    """Held-out loss after each epoch, the one whose parameters are kept (0: the start), how it was
    asked for, and whether the start was fitted.

    `heard`: nats of each held-out text at its label and at its mirror image, for each epoch and
    strength between which these texts chose.
    """

    trials: tuple[dict[str, float], ...]
    epoch: int
    training: Training
    tries: int = 1
    informed: bool = False
    heard: tuple[Float[Tensor, "2 n"], ...] = ()

    @property
    def strength(self) -> float:
        """What a label of 1 asks for, by the held-out texts."""
        return self.trials[self.epoch].get("strength", 1.0)

    @property
    def learnt(self) -> bool:
        """Whether what is kept was fitted."""
        return self.epoch > 0 or self.informed

    @property
    def settings(self) -> dict[str, Any]:
        """What a report says of it."""
        return asdict(self.training) | {
            "epochs": len(self.trials) - 1, "epoch_kept": self.epoch, "tries": self.tries,
        }  # fmt: skip


def train_on_texts(
    model: Model,
    data: Data,
    parameters: Sequence[Sized],
    training: Editing,
    judged: Editing,
    schedule: Schedule,
    penalty: Callable[[float], Tensor | None] = lambda progress: None,
) -> tuple[Data, Descent]:
    """Run `training_loop` on the NLL of texts, each edited at its own label.

    It is judged at the best of some multiples of the label.

    A hundred texts may look worse for what other hundreds are better for. Where the untrained start
    is best, it is tried once more with others held out; if they say the same, the user is told.

    Args:
        parameters: what is learned; changed in place.
        training, judged: the edits, with gradients to the parameters; the second without what
            belongs to training alone.
        penalty: added to the loss at each step, given the share of the fit that is done.
    """

    def pull(texts: Sequence[int], progress: float) -> None:
        batch = batch_of(data.kept, texts)
        c = final_states(model, data.kept, batch, training(texts, batch.labels))
        weight = torch.full((len(c),), 1 / len(c), device=c.device)
        backward(data.kept, c, batch.targets, weight, data.background, penalty(progress))

    heard: list[Float[Tensor, "2 n"]] = []
    tokens, mirror = data.n_predicted, 2 * data.middle

    def nats(strength: Callable[[Tensor], Tensor]) -> Float[Tensor, " n"]:
        made: Editing = lambda texts, y: judged(texts, strength(y))  # noqa: E731
        return nll_by_text(model, data, data.heldout, made)

    def judge() -> dict[str, float]:
        losses = {}
        for by in STRENGTHS:
            right, wrong = nats(lambda y, by=by: by * y), nats(lambda y, by=by: by * (mirror - y))
            heard.append(torch.stack([right, wrong]))
            losses[by] = float(right.sum() / tokens[data.heldout].sum())
        strength = min(losses, key=lambda by: losses[by])
        return {"heldout_nll": losses[strength], "strength": strength}

    found = training_loop(model, data, parameters, pull, judge, schedule)
    if not found.epoch and not schedule.informed:
        data = data.swapped()  # which `judge` sees, and the parameters are the untrained ones again
        heard.clear()
        found = training_loop(model, data, parameters, pull, judge, schedule)._replace(tries=2)
    found = found._replace(heard=tuple(heard))
    warn_untrained(found, data, schedule.name)
    return data, found


def training_loop(
    model: Model,
    data: Data,
    parameters: Sequence[Sized],
    pull: Callable[[Sequence[int], float], None],
    judge: Callable[[], dict[str, float]],
    schedule: Schedule,
) -> Descent:
    """Run AdamW with a learning rate that rises, then falls to zero.

    The parameters with the best held-out loss are kept.

    Args:
        parameters: what is learned; changed in place.
        pull: adds to the parameters the gradients of the loss of some texts, given the share of the
            fit that is done.
        judge: the held-out loss first, then what else the trials are to say.
    """
    device, fitting = data.kept.readout.W_U.device, data.fitting
    training = schedule.training.planned(len(fitting), schedule.lr)
    assert training.epochs is not None and training.patience is not None
    total = training.epochs * -(-len(fitting) // training.batch_size)
    optimiser, falling = _adam(parameters, training, total)
    random = generator(schedule.seed)
    best, best_at, at = [p.detach().clone() for p, _ in parameters], 0, 0
    trials = [{"epoch": 0.0} | judge()]
    loss = list(trials[0])[1]  # behind the epoch
    with (
        # dropout draws from the global generator, which is left as it was
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        tqdm(
            total=total, unit="step", desc=schedule.name, disable=hidden(schedule.progress)
        ) as bar,
    ):
        torch.manual_seed(schedule.seed)
        for epoch in range(1, training.epochs + 1):
            with eval_mode(model, gradients=True):
                for texts in _shuffled(data.kept, fitting, training.batch_size, random):
                    optimiser.zero_grad()
                    pull(texts, at / total)
                    optimiser.step()
                    falling.step()
                    at += 1
                    bar.update()
            trials.append({"epoch": float(epoch)} | judge())
            bar.set_postfix({loss: f"{trials[-1][loss]:.4f}"})
            if trials[-1][loss] < trials[best_at][loss]:
                best, best_at = [p.detach().clone() for p, _ in parameters], epoch
            elif epoch - best_at >= training.patience:
                break
    with torch.no_grad():
        for (p, _), value in zip(parameters, best, strict=True):
            p.copy_(value)
    return Descent(tuple(trials), best_at, training, informed=schedule.informed)


def _adam(
    parameters: Sequence[Sized], training: Training, total: int
) -> tuple[Optimizer, LRScheduler]:
    """Return the optimiser and its schedule.

    A parameter's own unit scales its learning rate and not its decay.
    """
    assert training.lr is not None
    groups = [
        {"params": [p], "lr": training.lr * unit, "weight_decay": training.weight_decay / unit}
        for p, unit in parameters
    ]
    optimiser, rising = torch.optim.AdamW(groups), max(training.warmup * total, 1)
    return optimiser, LambdaLR(optimiser, lambda k: min(1.0, (k + 1) / rising) * (1 - k / total))


def warn_untrained(found: Descent, data: Data, name: str) -> None:
    """Warn that the start was best, if it was; say what was tried, and what may help."""
    if found.epoch or found.informed:
        return
    loss = list(found.trials[0])[1]
    first, *others = (trial[loss] for trial in found.trials)
    again = "" if found.tries == 1 else ", nor others before them,"
    warn_user(
        f"{name}: nothing was learnt. None of {len(others)} epochs predicts the {len(data.heldout)} held-out texts{again} better "
        f"than the untrained start, which is what you get ({loss} {first:.4f}, trained {min(others):.4f} to "
        f"{max(others):.4f}; {len(data.fitting)} texts, lr {found.training.lr:g}). Give it more texts; a larger lr or more "
        "epochs where the trained loss hardly moved, a smaller lr where it rose: training=Training(lr=…, epochs=…). Or do "
        "the labels belong to other texts?"
    )


def build_fit(
    model: Model,
    data: Data,
    value: Any,
    made: Editing,
    found: Descent,
    seed: int,
    settings: dict[str, Any],
    started: float,
) -> Fit[Any]:
    """Return a value's fit: its losses on held-out and training texts, and how it came about."""
    measured, on_train = (
        measure_edit(model, data, texts, made, found.strength, data.middle)
        for texts in (data.heldout, data.fitting[: len(data.heldout)])
    )
    kept, tokens = data.kept, data.n_predicted
    right, wrong = torch.stack(found.heard, 1)
    _, copies = data.copy_of[data.heldout].unique(return_inverse=True)
    labels = kept.labels[data.heldout].cpu() - data.middle
    asked = Heldout(right, wrong, labels, tokens[data.heldout], copies)
    verdict = judge_heldout(asked, sum(measured.kl) / 2, seed)
    if verdict is not None:  # whoever looks twice finds by chance twice as often
        verdict = replace(verdict, learnt=found.learnt, p=min(verdict.p * found.tries, 1.0))
    report = Report(
        solver="adam", heldout=measured.all, train=on_train.all, by_label=measured.by_label, kl=measured.kl,
        verdict=verdict, mean_label=data.middle,
        objective=None, optimality_gap=None, gap_reason="the problem is not convex", passes=float(len(found.trials) - 1),
        seconds=time.perf_counter() - started, n_texts=len(kept), n_positions=int(tokens.sum()),
        n_truncated=kept.n_truncated, seed=seed, rank=settings.get("rank"), strength=found.strength,
        trials=found.trials,
        settings=settings | found.settings,
    )  # fmt: skip
    return Fit(value, data.background, report)


def _shuffled(
    kept: ResidualCache, rows: Sequence[int], size: int, random: torch.Generator
) -> Iterator[list[int]]:
    """Return batches in random order, of texts of similar length.

    They are drawn from a few batches' worth of random ones.
    """
    order = [rows[i] for i in torch.randperm(len(rows), generator=random).tolist()]
    found = []
    for start in range(0, len(order), 16 * size):
        window = sorted(order[start : start + 16 * size], key=lambda row: len(kept.ids[row]))
        found += [window[i : i + size] for i in range(0, len(window), size)]
    return (found[i] for i in torch.randperm(len(found), generator=random).tolist())
