"""Move the state so that the mean output embedding goes along a probe: dual steering."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from steerlens.maths.least_squares import regress
from steerlens.maths.numbers import as_count, as_seed, check_tensor
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.methods.baselines.fisher import exact, solve_fisher, walk
from steerlens.values.arguments import check_labels_differ
from steerlens.values.intervention import UNEMBED_IN, Edit, Strength
from steerlens.values.positions import TokenIndex
from steerlens.values.readout import Readout, check_readout
from steerlens.values.states import States, check_states
from steerlens.values.texts import as_name


@dataclass(frozen=True, eq=False)
class DualSteering:
    """Steps of the context vector along `(Cov_p(e) + αI)⁻¹ probe`, with `p` the prediction where the
    step begins:

        c ← c + s/n · x/|x|        (Cov_p(e) + αI) x = probe        n times

    The gradient of the log-partition, the mean output embedding `E_p e`, then moves along the
    probe: of all states with that value of the probe `probe · c`, the one whose distribution is
    nearest in KL(p ‖ ·). A plain step along the probe takes other words with it. Made by
    `fit_dual_steering`.

    Args:
        probe: `[d_model]`; only its direction counts.
        readout: of the model.
        name: for tables and figures.
        n_steps: in how many steps the way of length `s` is gone.

    Raises:
        ValueError: a probe of another width, zero, or not finite; fewer than one step.
    """

    probe: Float[Tensor, " d_model"]
    readout: Readout
    name: str = "dual steering"
    n_steps: int = 4
    prefix = 0
    file_kind: ClassVar[str] = "dual steering"

    def __post_init__(self) -> None:
        as_name(self.name)
        check_readout(self.readout)
        as_count(self.n_steps, "n_steps")
        check_tensor(self.probe, "probe", f"({self.readout.d_model},)")
        if self.probe.shape != (self.readout.d_model,):
            raise ValueError(
                f"probe: got shape {tuple(self.probe.shape)}, expected ({self.readout.d_model},)"
            )
        if not 0 < float(self.probe.norm()) < float("inf"):
            raise ValueError(f"probe of {self.name!r} is zero, or holds NaN or infinity")

    @property
    def n_parameters(self) -> int:
        """Numbers that were fitted."""
        return self.probe.numel()

    def edits(self, strength: Strength) -> tuple[Edit, ...]:
        head = exact(self.readout.head)

        def step(c: Tensor, by: Tensor) -> Tensor:
            x = solve_fisher(head, c, self.probe.to(c).expand_as(c))
            return by * normalize(x, eps=1e-30)

        def edit(c: Tensor, places: TokenIndex) -> Tensor:
            return walk(c, strength, self.n_steps, step)

        return ((UNEMBED_IN, edit),)

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what a file keeps of it."""
        return {"probe": self.probe}, {"n_steps": self.n_steps}

    @classmethod
    def unpack(
        cls, tensors: dict[str, Tensor], about: dict[str, Any], readout: Readout
    ) -> "DualSteering":
        """Make it again from what `pack` gave."""
        return cls(tensors["probe"], readout, about["name"], about["n_steps"])

    def __repr__(self) -> str:
        r = self.readout
        return (
            f"DualSteering({self.name!r}, {self.n_steps} steps, on {r.model_id!r} [{r.digest[:8]}])"
        )


@torch_defaults()
def fit_dual_steering(
    states: States, *, n_steps: int = 4, seed: int = 0, name: str = "dual steering"
) -> DualSteering:
    """Fit the linear probe that reads the label off the mean final state of a text.

        probe = argmin Σ_i (y_i − ȳ − probe · (c̄_i − c̄))² + ridge · |probe|²

    the ridge by held-out error. The steering itself is in `DualSteering`.

    Source: Park, Nief, Choe and Veitch (arXiv 2602.15293), dual steering, with the solver of their
    code (conjugate gradients, steps of one length); they stop at a target probability, here the
    strength says how far to go.

    Args:
        states: of labelled texts, from `steerlens.collect`.
        n_steps: see `DualSteering`.
        seed: of the folds.

    Raises:
        ValueError: fewer than ten texts, all labels equal.

    Example:
        >>> import steerlens as sl
        >>> states = sl.collect(sl.load_model("toy-64"), sl.toy.corpus("tone", n=60, seed=0), progress=False)
        >>> fit_dual_steering(states).probe.shape
        torch.Size([64])
    """
    check_states(states)
    name, n_steps, seed = as_name(name), as_count(n_steps, "n_steps"), as_seed(seed)
    sums = states.sum_by_text(torch.cat([c.hidden for c in states.chunks(1 << 16)]).mT).mT
    used = states.keep & (states.lengths > 0)
    means = sums[used] / states.lengths[used, None]
    y = states.labels[used].double()
    check_labels_differ(y, "states")
    y = y - y.mean()
    found = regress(means - means.mean(0), y[:, None], ridge=None, seed=seed)
    probe = found.M[:, 0].float().to(states.readout.W_U.device)
    return DualSteering(probe, states.readout, name, n_steps)
