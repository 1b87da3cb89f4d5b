"""Is the subspace that one method finds the one that another uses?"""

from collections.abc import Mapping

import pandas as pd
import torch
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from steerlens.maths.brief import brief, class_name
from steerlens.maths.numbers import numpy_generator
from steerlens.maths.stats import top_by_chance
from steerlens.maths.subspaces import canonical_correlations, principal_cosines
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.methods.reft.reft import Reft
from steerlens.models.hooks import Model, adapter, eval_mode, run_until
from steerlens.models.partial_forward import (
    ResidualCache,
    batch_of,
    cache_residuals,
    final_states,
    resumed,
)
from steerlens.models.steering import check_lives_on
from steerlens.values.arguments import steer_of
from steerlens.values.fit import Fit, value_of
from steerlens.values.intervention import UNEMBED_IN
from steerlens.values.labelled import Labelled
from steerlens.values.metric import Metric, check_metric_on
from steerlens.values.steer import Steer

RESPONSE = 1e-2
"""Size of the step of a difference quotient, relative to the size of the states."""


@torch_defaults()
def compare_subspaces(
    model: Model,
    steer: Steer | Fit,
    edits: Mapping[int, Reft | Fit[Reft]],
    data: Labelled,
    metric: Metric,
    *,
    again: Mapping[int, Reft | Fit[Reft]] | None = None,
    rank: int = 4,
    draws: int = 20,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare the subspaces of edits behind several layers with a steer.

    They are also compared with directions that need no fit.

    Four questions a layer, each with what random subspaces of the same rank answer there:

    - `writes`: do both push `c` the same way? The rows of `R` carried to the unembedding through
      the layers between (see `carried`), against the steer's `rank` strongest write directions, in
      the natural metric: `overlap`.
    - `writes, norm only`: the same, carried through the Jacobian of the final norm alone, as a
      logit lens would.
    - `reads`: do both look at the same? Mean squared canonical correlation, over the positions, of
      what the edit reads (`Ah`, or `Rh` where it reads nothing) with what the steer's strongest
      directions read off `c`.
    - `mean difference`, `probe`: how much of the difference of the mean states of positive and
      negative texts, and of the normal of a logistic regression on their mean states, lies in `R`:
      squared cosine with its span.
    - `other texts`: with `again`, the span of `R` against that of the same edit fitted to other
      texts: as much as one may ask of the others.

    Args:
        model: what both live on.
        steer: from `fit_steer`.
        edits: a `Reft` of one layer each, by layer, at all positions.
        data: labelled texts with both signs, some hundreds; other ones than those of the fits.
        metric: the natural metric there, from `natural_metric`.
        again: edits of the same kind, by layer, fitted to other texts.
        rank: of the steer's directions that count.
        draws: random subspaces behind a chance level.
        seed: of them.

    Returns:
        One row per layer and question: `layer`, `question`, `overlap` (mean squared cosine of the
        principal angles, 0 … 1),
        `chance` (mean over random subspaces) and `chance_high` (which one more exceeds in no more than 1 of 20 cases), `largest`
        (squared cosine of the smallest angle: 1 where one direction is shared) and
        `largest_chance_high`.

    Raises:
        ValueError: an edit of another layer or of several, labels without both signs.
    """
    steer = steer_of(steer)
    check_lives_on(steer, model, "steer")
    check_metric_on(metric, steer.readout)
    edits = {layer: value_of(edit) for layer, edit in edits.items()}
    again = None if again is None else {layer: value_of(edit) for layer, edit in again.items()}
    if rank < 1 or draws < 1:
        raise ValueError(f"rank, draws: got {rank} and {draws}, expected at least 1")
    if again is not None and set(again) != set(edits):
        raise ValueError(
            f"again: got layers {sorted(again)}, expected those of edits, {sorted(edits)}"
        )
    for layer, edit in [*edits.items(), *(again or {}).items()]:
        if not isinstance(edit, Reft):
            raise ValueError(
                f"edits: got {class_name(edit)} for layer {layer}, expected a Reft or its Fit; steerlens.fit_reft makes one"
            )
        if edit.layers != (layer,) or edit.positions != "all":
            raise ValueError(
                f"edits: the one given for layer {layer} is behind {edit.layers} at {edit.positions!r}, expected one edit of "
                "that layer at all positions"
            )
    if not (any(y > 0 for y in data.labels) and any(y < 0 for y in data.labels)):
        raise ValueError(
            "data: expected texts with labels above and below 0; a mean difference needs both"
        )
    U, _, Vh = torch.linalg.svd(metric.whiten(steer.W))
    # reads are covectors on c, writes are vectors of c; both in coordinates where chance is the
    # same in all directions
    read, written = (metric.C_inverse_root @ U[:, :rank]).float(), Vh[:rank]
    rows = []
    for layer, edit in edits.items():
        kept = cache_residuals(model, data, layer)
        h, c = states_and_contexts(model, kept)
        contrast, normal = _directions(kept, seed)
        reads = edit.R[0] if edit.A is None else edit.A[0]
        # torch's generator would give what an edit of one direction and the same seed began at
        random = numpy_generator(seed)
        spans = [
            torch.from_numpy(random.standard_normal(edit.R[0].shape)).to(h) for _ in range(draws)
        ]

        def writes(directions: Tensor, through: str, kept=kept) -> Tensor:
            return principal_cosines(
                carried(model, kept, directions, through) @ metric.S_root.float(), written
            )

        asked = {
            "writes": (lambda R: writes(R, "model"), edit.R[0]),
            "writes, norm only": (lambda R: writes(R, "norm"), edit.R[0]),
            "reads": (lambda A, h=h, c=c: canonical_correlations(h @ A.mT, c @ read), reads),
            "mean difference": (lambda R, v=contrast: principal_cosines(v[None], R), edit.R[0]),
            "probe": (lambda R, v=normal: principal_cosines(v[None], R), edit.R[0]),
        }
        if again is not None:
            asked["other texts"] = (
                lambda R, other=again[layer].R[0]: principal_cosines(R, other),
                edit.R[0],
            )
        for question, (answer, own) in asked.items():
            found = answer(own).square()
            chance = torch.stack([answer(span).square() for span in spans])
            mean, top = chance.mean(1), chance.amax(1)
            rows.append(
                (layer, question, float(found.mean()), float(mean.mean()), top_by_chance(mean.cpu().numpy()), float(found.max()),
                 top_by_chance(top.cpu().numpy()))
            )  # fmt: skip
    columns = [
        "layer",
        "question",
        "overlap",
        "chance",
        "chance_high",
        "largest",
        "largest_chance_high",
    ]
    return pd.DataFrame(rows, columns=columns)


@torch_defaults()
def carried(
    model: Model,
    kept: ResidualCache,
    directions: Float[Tensor, "k d_resid"],
    through: str = "model",
) -> Float[Tensor, "k d_model"]:
    """Return what small steps along directions behind a layer do to `c`.

    That is `E[∂c/∂h · r]`, the mean over the positions.

        (c(h + εr) − c(h − εr)) / 2ε        ε = a hundredth of the states' size

    `through="model"`: the step is made at every token, as an edit at all positions makes it, and
    goes through the layers between. `through="norm"`: the state is taken for that behind the last
    layer, so that only the final norm is between.
    """
    if through not in ("model", "norm"):
        raise ValueError(f"through: got {brief(through)}, expected 'model' or 'norm'")
    _check_kept(kept)
    if kept.readout.W_U.dtype != torch.float32:
        raise ValueError(
            f"model: its numbers are {kept.readout.W_U.dtype}, too coarse for a difference quotient; load it in float32"
        )
    last = adapter(model).n_layers - 1
    size = float(kept.resid.norm(dim=1).mean()) * RESPONSE
    unit = directions / directions.norm(dim=1, keepdim=True).clamp_min(1e-30)
    total, n = torch.zeros(len(directions), kept.readout.d_model, dtype=torch.float64), 0
    with eval_mode(model):
        for rows in kept.batches(range(len(kept))):
            batch = batch_of(kept, rows)
            assert batch.resid is not None
            for k, r in enumerate(unit.to(batch.resid)):
                ends = []
                for sign in (1, -1):
                    with resumed(
                        model,
                        kept.layer if through == "model" else last,
                        batch.resid + sign * size * r,
                    ):
                        c = run_until(model, UNEMBED_IN, batch.tokens, batch.mask).float()
                    ends.append(c[:, :-1][batch.real].double().sum(0).cpu())
                total[k] += (ends[0] - ends[1]) / (2 * size)
            n += int(batch.real.sum())
    return (total / n).float()


def _check_kept(kept: ResidualCache) -> None:
    if kept.layer < 0:
        raise ValueError(
            "model: its passes cannot be resumed behind a layer, so its states there cannot be followed"
        )


@torch_defaults()
def states_and_contexts(
    model: Model, kept: ResidualCache
) -> tuple[Float[Tensor, "n d_resid"], Float[Tensor, "n d_model"]]:
    """Return the states behind the layer and at the unembedding, at the same places."""
    _check_kept(kept)
    h, c = [], []
    with eval_mode(model):
        for rows in kept.batches(range(len(kept))):
            batch = batch_of(kept, rows)
            assert batch.resid is not None
            h.append(batch.resid[:, :-1][batch.real])
            c.append(final_states(model, kept, batch, ()))
    return torch.cat(h), torch.cat(c)


def _directions(
    kept: ResidualCache, seed: int
) -> tuple[Float[Tensor, " d_resid"], Float[Tensor, " d_resid"]]:
    """Return the mean difference of the two signs' states, and the normal of a probe.

    The probe is one on the texts' mean states.
    """
    ends = [*kept.starts.tolist()[1:], len(kept.resid)]
    mean = torch.stack(
        [kept.resid[a:b].mean(0) for a, b in zip(kept.starts.tolist(), ends, strict=True)]
    )
    signed = kept.labels != 0
    positive = kept.labels[signed] > 0
    some = mean[signed]
    difference = some[positive].mean(0) - some[~positive].mean(0)
    spread = some.std(0).clamp_min(1e-6)
    probe = LogisticRegression(C=0.1, max_iter=1000, random_state=seed).fit(
        (some / spread).numpy(), positive.numpy()
    )
    return difference, torch.tensor(probe.coef_[0]).float() / spread
