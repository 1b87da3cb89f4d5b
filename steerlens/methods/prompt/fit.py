"""Fit a prompt of learned rows to labelled texts: prompt tuning on the steer's signed objective."""

import time
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from steerlens.maths.brief import brief
from steerlens.maths.numbers import as_count, as_number
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.methods.prompt.model_priors import start_rows, vocabulary_prior
from steerlens.methods.prompt.priors import Prior, total_log_prob
from steerlens.methods.prompt.soft_prompt import (
    Kind,
    SoftPrompt,
    prompt_edits,
    prompt_layers,
    prompt_sites,
)
from steerlens.methods.training import Schedule, Sized, build_fit, nll, split, train_on_texts
from steerlens.models.hooks import Model, adapter, convention
from steerlens.models.partial_forward import cache_residuals_of_tokens
from steerlens.models.readout import readout
from steerlens.models.tokenization import encode, with_prefix
from steerlens.values.arguments import check_labelled
from steerlens.values.fit import Fit
from steerlens.values.intervention import Edit
from steerlens.values.labelled import Labelled
from steerlens.values.steer import Steer
from steerlens.values.texts import as_name
from steerlens.values.training import USUAL, Training, lasting

Encoder = Literal["none", "mlp", "lstm"]


@torch_defaults()
def fit_prompt(
    model: Model,
    data: Labelled,
    *,
    length: int = 8,
    kind: Kind = "soft",
    layers: Sequence[int] | None = None,
    prior: Prior | None = None,
    prior_weight: float = 0.0,
    encoder: Encoder = "none",
    background: Steer | None = None,
    epochs: int | None = None,
    training: Training = USUAL,
    seed: int = 0,
    name: str = "prompt",
    progress: bool = True,
) -> Fit[SoftPrompt]:
    """Fit the rows before the input that best explain labelled texts, on the steer's signed
    objective.

        minimise  mean CE(p(next token | P(y), text)) − λ/N · (log prior(P(1)) + log prior(P(−1)))
                  P(y) = rows + y · directions

    One value serves both signs: the rows are what all texts have in common, the directions what the
    label changes. Not convex: AdamW, the parameters with the best held-out NLL are kept. Every
    layer runs at every step, forward and backward: a prompt changes all of them.
    Source: Lester et al. (arXiv 2104.08691), Li and Liang (prefix tuning), Liu et al. (P-tuning v1
    and v2); priors: Sedov et al. (arXiv 2412.18582), where they are starts only.

    Args:
        model: of TransformerLens or of Hugging Face; unchanged afterwards.
        data: labelled texts; prompts of their own come behind the rows.
        length: rows.
        kind: "soft", "deep" or "kv"; see `SoftPrompt`.
        layers: for "deep" (default: the last third) and "kv" (default: all).
        prior: where the token embeddings of the rows start; None: tokens drawn from the vocabulary.
            What deeper sites hold at the start is what the model makes of these rows, so that every
            kind starts as the same prompt.
        prior_weight: λ; 0: the prior is the start alone, 1: the maximum a posteriori over N tokens.
            "soft" only.
        encoder: "mlp" or "lstm" to learn the rows through a small network (P-tuning, prefix
            tuning), which is folded into plain rows afterwards.
        background: a steer that is always on; None: none.
        epochs: most passes over the texts; the same as `Training(epochs=)`.
        training: learning rate, epochs, batch size; see `Training`. The `lr` is in units of the
            typical size of the model's own states at each site, as embeddings of different models
            differ a hundredfold in size; None: 0.5, or 0.01 for the parameters of an encoder.
            Without an encoder what decays is the way from the start.
        seed, name, progress: as in `fit_reft`.

    Returns:
        `Fit(value: SoftPrompt, background, report)`. The report's base is the neutral prompt
        (strength 0); the plain model's held-out NLL is `report.settings["plain_nll"]`.

    Warns:
        UserWarning: the untrained start was best (`report.settings["epoch_kept"]` is 0), so nothing
            was learnt.

    Raises:
        ValueError: fewer than four texts, an argument out of range, a prior without a density where
            one is asked for; a model that keeps more of a token than this kind of rows holds
            (embeddings per layer, a recurrent state beside keys and values).

    Example:
        >>> import steerlens as sl
        >>> model, data = sl.load_model("toy-64"), sl.toy.corpus("tone", n=60, seed=0)
        >>> fit = fit_prompt(model, data, length=2, training=Training(epochs=1), progress=False)
        >>> fit.value.prefix
        2
    """
    started = time.perf_counter()
    check_labelled(data)
    name = as_name(name)
    if encoder not in ("none", "mlp", "lstm"):
        raise ValueError(f"encoder: got {brief(encoder)}, expected 'none', 'mlp' or 'lstm'")
    schedule = Schedule(
        lasting(training, epochs), 0.5 if encoder == "none" else 0.01, seed, progress, "fit_prompt"
    )
    picked = prompt_layers(kind, layers, adapter(model).n_layers)
    on = readout(model)
    how = convention(model, on)
    room = how.n_ctx - 2
    length = as_count(length, "length", f"1 … {room}; the context is {how.n_ctx}", most=room)
    if prior is not None and not callable(getattr(prior, "sample", None)):
        raise ValueError(
            f"prior: got {type(prior).__name__}, expected one of steerlens.methods.prompt.model_priors, or None"
        )
    if as_number(prior_weight, "prior_weight", "a number ≥ 0") < 0 or (
        prior_weight and (prior is None or kind != "soft")
    ):
        raise ValueError(
            f"prior_weight: got {prior_weight} for kind {kind!r} and prior {getattr(prior, 'name', None)!r}, expected 0, or a "
            "number > 0 with a prior and kind 'soft'"
        )
    encoded = encode(
        adapter(model).tokenizer,
        list(data.texts),
        how._replace(n_ctx=how.n_ctx - length),
        end=True,
        prompts=data.prompts,
    )
    labels = torch.tensor(data.labels)
    kept = cache_residuals_of_tokens(
        model, with_prefix(encoded, length, adapter(model).tokenizer), labels, -1
    )
    parts = split(model, kept, background, seed)
    prior = vocabulary_prior(model) if prior is None else prior
    start, typical = start_rows(model, prior, length, prompt_sites(kind, picked), seed)
    if prior_weight:
        total_log_prob(prior, start[0])  # raises where there is no density
    learned = _Rows(start, typical, encoder, seed)

    def editing(texts: Sequence[int], strength: Tensor) -> tuple[Edit, ...]:
        return prompt_edits(*learned.both(), kind, picked, strength)

    n_tokens = sum(len(kept.ids[row]) - int(kept.prompt[row]) for row in parts.fitting)

    def penalty(_: float) -> Tensor | None:
        if not prior_weight:
            return None
        rows, directions = learned.both()
        belief = sum(total_log_prob(prior, (rows + sign * directions)[0]) for sign in (1, -1))
        return -prior_weight / n_tokens * torch.as_tensor(belief)

    parts, found = train_on_texts(
        model, parts, learned.parameters(), editing, editing, schedule, penalty
    )
    rows, directions = (t.detach().clone() for t in learned.both())
    value = SoftPrompt(rows, directions, kind, picked, on, name)
    plain = parts._replace(kept=cache_residuals_of_tokens(model, encoded, labels, -1))
    settings = {
        "kind": kind, "length": length, "layers": list(picked), "prior": prior.name,
        "prior_weight": prior_weight, "encoder": encoder, "n_parameters": value.n_parameters,
        "plain_nll": nll(model, plain, plain.heldout, lambda texts, strength: ()),
    }  # fmt: skip
    return build_fit(
        model, parts, value, lambda texts, s: value.edits(s), found, seed, settings, started
    )


class _Rows:
    """Rows and directions while they are learned, as they are or through a network; the directions
    start at zero.

    What is learned is the way from the start, in units of the typical size of states at each site.
    """

    def __init__(
        self,
        start: Float[Tensor, "n_sites n width"],
        typical: Float[Tensor, "n_sites 1 1"],
        encoder: Encoder,
        seed: int,
    ) -> None:
        self.start, self.unit = start, typical
        n_sites, _, width = start.shape
        self.net: nn.Module | None = None
        self.lstm: nn.LSTM | None = None
        if encoder == "none":
            self.own = [nn.Parameter(torch.zeros_like(start)) for _ in range(2)]
            return
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            half = max(width // 2, 1)
            last = nn.Linear(width, 2 * n_sites * width)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            if encoder == "lstm":
                self.lstm = nn.LSTM(
                    width, half, num_layers=2, bidirectional=True, batch_first=True
                ).to(start)
            middle = nn.Linear(2 * half if self.lstm else width, width)
            self.net = nn.Sequential(middle, nn.Tanh() if encoder == "mlp" else nn.ReLU(), last).to(
                start
            )
        self.own = [nn.Parameter(start[0].clone())]

    def parameters(self) -> list[Sized]:
        nets = [net for net in (self.net, self.lstm) if net is not None]
        return [(p, 1.0) for p in (*self.own, *(p for net in nets for p in net.parameters()))]

    def both(self) -> tuple[Float[Tensor, "n_sites n width"], Float[Tensor, "n_sites n width"]]:
        found: Sequence[Tensor] | Tensor = self.own
        if self.net is not None:
            read = self.own[0] if self.lstm is None else self.lstm(self.own[0][None])[0][0]
            n_sites, n, width = self.start.shape
            found = self.net(read).reshape(n, 2, n_sites, width).permute(1, 2, 0, 3)
        return self.start + self.unit * found[0], self.unit * found[1]
