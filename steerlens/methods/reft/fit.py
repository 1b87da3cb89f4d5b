"""Fit an edit of hidden states inside a subspace (ReFT) to labelled texts."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.numbers import as_count, as_number
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.methods.reft.formulas import Activation, Variant
from steerlens.methods.reft.parameters import IDLE, Learned, Shape, dropping
from steerlens.methods.reft.reft import Reft, check_form, edits_at
from steerlens.methods.reft.states import activations, survey
from steerlens.methods.training import Editing, Schedule, build_fit, split, train_on_texts
from steerlens.models.hooks import Model, adapter
from steerlens.models.partial_forward import cache_residuals
from steerlens.values.arguments import as_layers, check_labelled
from steerlens.values.fit import Fit
from steerlens.values.intervention import Edit
from steerlens.values.labelled import Labelled
from steerlens.values.positions import TokenIndex, parse_positions
from steerlens.values.steer import Steer
from steerlens.values.texts import as_name
from steerlens.values.training import USUAL, Training, lasting

__all__ = ["fit_reft", "fit_reft_tasks"]

LR = 0.02
"""Highest learning rate, in norms of a state, for toy models and ones of real reviews alike
(trials: 0.01 … 0.03)."""


@torch_defaults()
def fit_reft(
    model: Model,
    data: Labelled,
    *,
    variant: Variant = "loreft",
    layers: int | Sequence[int] | None = None,
    rank: int = 4,
    positions: str = "all",
    tied: bool = True,
    activation: Activation | None = None,
    background: Steer | None = None,
    dropout: float = 0.0,
    epochs: int | None = None,
    training: Training = USUAL,
    seed: int = 0,
    name: str = "reft",
    progress: bool = True,
) -> Fit[Reft]:
    """Fit the edit of hidden states that best explains labelled texts: ReFT, trained on the steer's
    signed objective.

        minimise  mean CE(softmax((c(h + y·Δ(h)) + cD) W_U + b_U), next token)

    over the parameters of `Δ` (see `Reft` for the variants), with the label `y ∈ [-1, 1]` of each
    text as strength. Not convex: AdamW, the parameters with the best held-out NLL are kept. The
    model is frozen; gradients begin at the lowest edited layer, and what is below it is run once
    for all steps. Few texts make an edit longer than others want it, so each epoch is judged at 1,
    ½ and ¼ of the labels; the best of them is `report.strength`, as for a steer. Source: Wu et al.
    (arXiv 2404.03592); r1: AxBench, whose penalty on the other activations has the same weight
    here.

    Args:
        model: of TransformerLens or of Hugging Face; unchanged afterwards.
        data: labelled texts, with prompts where the edit is to be made on prompts.
        variant: "loreft", "noreft", "direft", "nodireft", "consreft", "lobireft" or "r1" (one unit
            vector, all tokens).
        layers: behind which layers; None: the one two thirds up.
        rank: dimensions of the subspace.
        positions: "all", or tokens of the prompt such as "f2+l3"; see
            `steerlens.values.positions.parse_positions`. A text without a prompt has begin-of-text
            for its prompt.
        tied: whether beginning and end of the prompt share their numbers.
        activation: on `Ah + b`.
        background: a steer that is always on, e.g. that of `fit_steer`; None: none.
        dropout: of edited states, in training.
        epochs: most passes over the texts; the same as `Training(epochs=)`.
        training: learning rate, epochs, batch size; see `Training`. The `lr` is in units of the
            norm of a usual state: a step changes what the edit adds by up to `lr` times that. None:
                0.02.
        seed: of the split, the start and the order of the texts.
        name: for tables and figures.
        progress: show a bar.

    Returns:
        `Fit(value: Reft, background, report)`; the report's numbers mean the same as a steer's.
        Which epoch was kept is `report.settings["epoch_kept"]`.

    Warns:
        UserWarning: the untrained start was best (`epoch_kept` 0) whichever texts were held out, so
            nothing was learnt.

    Raises:
        ValueError: fewer than four texts, an argument out of range, a layer that the model has not.

    Example:
        >>> import steerlens as sl
        >>> from steerlens.values.training import Training
        >>> model, data = sl.load_model("toy-64"), sl.toy.corpus("tone", n=100, seed=0)
        >>> fit = sl.fit_reft(model, data, rank=1, training=Training(epochs=1), progress=False)
        >>> fit.value.R.shape
        torch.Size([1, 1, 64])
    """
    shape = _shape(model, variant, layers, rank, positions, tied, activation)
    check_labelled(data)
    if not 0 <= as_number(dropout, "dropout", "a number in [0, 1)") < 1:
        raise ValueError(f"dropout: got {dropout}, expected a number in [0, 1)")
    name = as_name(name)
    schedule = Schedule(lasting(training, epochs), LR, seed, progress, "fit_reft")
    return _fit(model, data, None, shape, background, schedule, dropout, name)


@torch_defaults()
def fit_reft_tasks(
    model: Model,
    tasks: Mapping[str, Labelled],
    *,
    rank: int = 8,
    layers: int | Sequence[int] | None = None,
    variant: Variant = "loreft",
    positions: str = "all",
    epochs: int | None = None,
    training: Training = USUAL,
    seed: int = 0,
    progress: bool = True,
) -> tuple[Fit[Reft], dict[str, Reft]]:
    """Fit one subspace for several tasks, each trained on its own rows of it, so that they can be
    used together.

    The rows of an orthonormal `R` make changes that do not meet:
    `Δ(h) = Σ_i R_iᵀ(A_i h + b_i − R_i h)`. Task `k` of `n` is trained with the `k`-th `rank / n` of
    them alone; the whole edit, all rows on, was never trained. Source: the composition experiment
    of Wu et al. (arXiv 2404.03592).

    Args:
        tasks: labelled texts by name; the rest as in `fit_reft`.

    Returns:
        The fit of the whole edit (its report is on all tasks' texts, each with its own rows), and
        each task's part of it.

    Example:
        >>> import steerlens as sl
        >>> tasks = {name: sl.toy.corpus(name, n=60, seed=0) for name in ("sentiment", "tone")}
        >>> training = Training(epochs=1, batch_size=16)
        >>> whole, parts = fit_reft_tasks(sl.load_model("toy-64"), tasks, rank=2, training=training, progress=False)
        >>> {name: part.rank for name, part in parts.items()}
        {'sentiment': 1, 'tone': 1}
    """
    if len(tasks) < 2 or rank % len(tasks):
        raise ValueError(
            f"tasks: got {len(tasks)} for rank {rank}, expected at least two, and a rank that they divide"
        )
    if any(data.prompts for data in tasks.values()) and not all(
        data.prompts for data in tasks.values()
    ):
        raise ValueError(
            "tasks: some have prompts and some have none; give all of them prompts, or none"
        )
    shape = _shape(model, variant, layers, rank, positions, True, None)
    schedule = Schedule(lasting(training, epochs), LR, seed, progress, "fit_reft_tasks")
    texts, labels, prompts, rows = (), (), (), []
    share = rank // len(tasks)
    for k, data in enumerate(tasks.values()):
        texts, labels, prompts = texts + data.texts, labels + data.labels, prompts + data.prompts
        used = torch.zeros(rank)
        used[k * share : (k + 1) * share] = 1
        rows += [used] * len(data)
    fit = _fit(
        model,
        Labelled(texts, labels, prompts),
        torch.stack(rows),
        shape,
        None,
        schedule,
        0.0,
        " and ".join(tasks),
    )
    parts = {
        name: fit.value.rows(range(k * share, (k + 1) * share), name)
        for k, name in enumerate(tasks)
    }
    return fit, parts


def _shape(
    model: Model,
    variant: Variant,
    layers: int | Sequence[int] | None,
    rank: int,
    positions: str,
    tied: bool,
    activation: Activation | None,
) -> Shape:
    check_form(variant, activation)
    where, n_layers, d_model = (
        parse_positions(positions),
        adapter(model).n_layers,
        adapter(model).d_model,
    )
    if layers is None:
        layers = 2 * (n_layers - 1) // 3
    picked = as_layers(layers, n_layers)
    rank = as_count(rank, "rank", f"1 … {d_model} (d_model)", most=d_model)
    if variant == "r1" and (rank != 1 or positions != "all" or len(picked) != 1):
        raise ValueError(
            f"variant: 'r1' is one unit vector at all tokens of one layer; got rank {rank}, {positions!r}, {picked}"
        )
    if not tied and not (where.first and where.last):
        raise ValueError(
            f"tied: {positions!r} has one end, so there is nothing to keep apart; leave tied=True"
        )
    return Shape(variant, rank, picked, positions, tied, activation, d_model)


def _fit(
    model: Model,
    texts: Labelled,
    rows: Float[Tensor, "n_texts rank"] | None,
    shape: Shape,
    background: Steer | None,
    schedule: Schedule,
    dropout: float,
    name: str,
) -> Fit[Reft]:
    started = time.perf_counter()
    kept = cache_residuals(model, texts, shape.layers[0])
    data = split(model, kept, background, schedule.seed)
    learned = Learned(shape, *survey(model, kept, data.fitting, shape.layers), schedule.seed)
    idle: list[Tensor] = []

    def used(texts: Sequence[int], like: Tensor) -> Tensor | None:
        return None if rows is None else rows[list(texts)].to(like.device)

    def judged(texts: Sequence[int], strength: Tensor) -> tuple[Edit, ...]:
        return learned.edits(strength, used(texts, strength), [])

    def training(texts: Sequence[int], strength: Tensor) -> tuple[Edit, ...]:
        idle.clear()
        edits = learned.edits(strength, used(texts, strength), idle)
        return dropping(edits, shape.positions, dropout) if dropout else edits

    def penalty(progress: float) -> Tensor | None:
        return IDLE * progress * torch.stack([rest.mean() for rest in idle]).sum() if idle else None

    data, found = train_on_texts(
        model, data, learned.parameters(), training, judged, schedule, penalty
    )
    value = learned.value(kept.readout, name)
    settings = {
        "variant": shape.variant, "layers": list(shape.layers), "positions": shape.positions, "rank": shape.rank,
        "tied": shape.tied, "activation": shape.activation, "dropout": dropout, "n_parameters": value.n_parameters,
        "resumed": kept.layer >= 0,
    }  # fmt: skip
    if shape.variant == "r1":
        size, largest = activations(model, kept, data.fitting, shape.layers[0], value.R[0, 0])
        value = replace(value, b=torch.full_like(value.b, size))
        settings["largest_activation"] = largest
    return build_fit(
        model, data, value, _editing(value, rows), found, schedule.seed, settings, started
    )


def _editing(reft: Reft, rows: Float[Tensor, "n_texts rank"] | None) -> Editing:
    """Return the edits of a value; with `rows` each text has its own rows of the subspace."""
    if rows is None:
        return lambda texts, strength: reft.edits(strength)

    def of(texts: Sequence[int], strength: Tensor) -> tuple[Edit, ...]:
        used = rows[list(texts)].to(strength.device)[:, None]

        def change(h: Tensor, edit: int, places: TokenIndex) -> Tensor:
            return reft.change(h, edit, used)

        return edits_at(reft.layers, reft.positions, len(reft.R), change, strength)

    return of
