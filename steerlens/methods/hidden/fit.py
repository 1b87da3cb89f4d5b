"""Fit a steer at any layer and site: a closed form from one pass back, then a short descent."""

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from steerlens.maths.numbers import as_count, generator
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.methods.hidden.evidence import evidence, map_edits, newton_factors
from steerlens.methods.hidden.hidden_steer import HiddenSteer, last_layer_below
from steerlens.methods.training import Schedule, build_fit, nll, split, train_on_texts
from steerlens.models.hooks import Model, adapter, add_hooks, check_site, eval_mode
from steerlens.models.partial_forward import cache_residuals
from steerlens.models.readout import readout
from steerlens.values.arguments import check_labelled, check_labels_differ
from steerlens.values.fit import Fit
from steerlens.values.intervention import UNEMBED_IN, Edit
from steerlens.values.labelled import Labelled
from steerlens.values.training import USUAL, Training
from steerlens.values.warn import warn_user

LR = 3e-3
"""Highest learning rate, in whitened coordinates (trials: 0.003, 0.01, 0.03)."""
LENGTHS = (1.5, 1.0, 0.7, 0.5, 0.35, 0.25, 0.15, 0.1)
"""Multiples of Newton's step that are tried: few texts make it longer than others want it."""


@torch_defaults()
def fit_hidden_steer(
    model: Model,
    data: Labelled,
    *,
    site: str,
    rank: int = 4,
    training: Training = USUAL,
    seed: int = 0,
    name: str = "hidden steer",
    progress: bool = True,
) -> Fit[HiddenSteer]:
    """Fit the linear map of hidden states at one site that best explains labelled texts.

        minimise  mean CE(softmax(f(h + y · hAB)), next token)

    with `f` the rest of the model, frozen, and the label `y ∈ [-1, 1]` of each text as strength.
    Not convex: it begins at a closed form and descends from there.

        W₀ = t · C⁻¹ G S⁻¹ / E y², cut to the rank        G = −E y hᵀ g,  C = E hᵀh,  S = E gᵀg

    is Newton's step under the Kronecker-factored Fisher information, from one pass forward and one
    back (`g` is the gradient of a text's NLL in a token's state); held-out texts choose its length
    `t`. AdamW then changes both factors in the coordinates `C^{1/2} W S^{1/2}`, and the epoch with
    the best held-out NLL is kept, which may be the closed form itself. `Training(lr=0)` asks for
    that alone. What lies below the site is run once for all steps, where the model allows it.

    Source: Han et al. (arXiv 2305.12798) for the map, at the unembedding there; Martens and Grosse
    (2015) for the factored Fisher information.

    Args:
        model: of TransformerLens, or of Hugging Face where its adapter has the site.
        data: labelled texts; prompts are only read, and steered too.
        site: see `HiddenSteer`.
        rank: of the map.
        training: of the descent; see `Training`. None for its `lr`: 0.003.
        seed: of the split and the order of the texts.
        name: for tables and figures.
        progress: show a bar.

    Returns:
        `Fit(value: HiddenSteer, background, report)`; the report's numbers mean the same as a
            steer's, the background is zero. `report.settings["epoch_kept"]` of 0 is the closed
            form.

    Raises:
        KeyError: a hook that the model has not (plain Hugging Face models have the states between
            layers alone).
        ValueError: a site of another kind, one whose edits do not reach the stream they are named
            after or are of another width than the unembedding's input, all labels equal, fewer than
            four texts, a rank out of range.

    Example:
        >>> import steerlens as sl
        >>> model, data = sl.load_model("toy-64"), sl.toy.corpus("tone", n=100, seed=0)
        >>> fit = fit_hidden_steer(model, data, site="blocks.1.hook_resid_post", rank=1, progress=False)
        >>> fit.report.heldout.steered < fit.report.heldout.flipped
        True
    """
    started, found = time.perf_counter(), adapter(model)
    check_labelled(data)
    check_labels_differ(torch.tensor(data.labels))
    below = last_layer_below(site, found.n_layers)
    check_site(model, site)
    if site.endswith("resid_mid"):
        _check_goes_on(model, site)
    d = readout(model).d_model
    if found.d_model != d and site not in ("hook_embed", UNEMBED_IN):
        raise ValueError(
            f"site: states at {site} are {found.d_model} wide where the unembedding reads {d}, and a map of hidden states "
            f"has one width; take site='{UNEMBED_IN}', or fit_reft, which edits layers of any width"
        )
    rank = as_count(rank, "rank", f"1 … {d} (d_model)", most=d)
    parts = split(model, cache_residuals(model, data, below), None, seed)
    told = evidence(model, parts, site)
    read, write = told.metric.C_inverse_root, told.metric.S_inverse_root

    def at(P: Tensor, Q: Tensor, y: Tensor) -> tuple[Edit, ...]:
        return map_edits(read @ P, Q @ write, site, y)

    P, Q = newton_factors(told, rank)
    losses = {
        t: nll(model, parts, parts.heldout, lambda _, y, t=t: at(P, Q, t * y))
        for t in (0.0, *LENGTHS)
    }
    length = min(LENGTHS, key=lambda t: losses[t])
    P, Q = (nn.Parameter(length**0.5 * factor) for factor in (P, Q))
    schedule = Schedule(training, LR, seed, progress, "fit_hidden_steer", informed=True)
    parts, descent = train_on_texts(
        model,
        parts,
        [(P, 1.0), (Q, 1.0)],
        lambda _, y: at(P, Q, y),
        lambda _, y: at(P, Q, y),
        schedule,
    )
    A, B = (read @ P).detach(), (Q @ write).detach()
    value = HiddenSteer(A, B, site, parts.kept.readout, name)
    settings = {
        "site": site, "rank": rank, "n_parameters": value.n_parameters, "newton_length": length,
        "resumed": parts.kept.layer >= 0,
    }  # fmt: skip
    fit = build_fit(
        model, parts, value, lambda _, y: value.edits(y), descent, seed, settings, started
    )
    return _if_better(fit, losses[0.0])


def _if_better(fit: Fit[HiddenSteer], plain: float) -> Fit[HiddenSteer]:
    """Return the fit; where no held-out text is better for it, its verdict and a warning say so."""
    trials, verdict = fit.report.trials, fit.report.verdict
    best = min(trial["heldout_nll"] for trial in trials)
    if best < plain:
        return fit
    warn_user(
        f"fit_hidden_steer: nothing was learnt at {fit.value.site}. Neither the closed form nor {len(trials) - 1} epochs from it "
        f"predict the held-out texts better than the plain model does (heldout_nll {best:.4f}, plain {plain:.4f}). Give it more "
        "texts, or another site. Or do the labels belong to other texts?"
    )
    verdict = None if verdict is None else replace(verdict, learnt=False)
    return replace(fit, report=replace(fit.report, verdict=verdict))


def _check_goes_on(model: Model, site: str) -> None:
    """Raise where what is put at a `resid_mid` reaches the MLP alone, and not the stream beside it.

    TransformerLens 4's bridge reads that hook off the norm before the MLP.
    """
    layer, found = site.rsplit(".", 1)[0], adapter(model)
    names = (site, f"{layer}.hook_mlp_out", f"{layer}.hook_resid_post")
    seen: dict[str, Tensor] = {}

    def look(name: str, by: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        def see(h: Tensor) -> Tensor:
            seen[name] = h if by is None else h + by.to(h)
            return seen[name]

        return see

    random, device = generator(0), found.W_U.device
    tokens = torch.randint(found.W_U.shape[1], (2, 5), generator=random).to(device)
    with eval_mode(model):
        by = 3 * torch.randn(found.d_model, generator=random)
        with add_hooks(model, [(names[0], look(names[0], by)), *((n, look(n)) for n in names[1:])]):
            found.logits(tokens, torch.ones_like(tokens))
    mid, mlp, post = (seen[n].float() for n in names)
    if float((post - mlp - mid).abs().max()) > 1e-2 * float(mid.abs().max()):
        raise ValueError(
            f"site: on {type(found.model).__name__} what is put at {site!r} reaches the MLP but not the stream beside it; take "
            f"'{layer}.hook_attn_out', '{layer}.hook_resid_pre' or '{layer}.hook_resid_post'"
        )
