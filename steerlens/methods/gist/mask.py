"""A gist mask in a running model, and the prompt that a longer one was distilled into."""

import html
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steerlens.maths.numbers import generator
from steerlens.methods.gist.formulas import Control, check_gist, gist_mask
from steerlens.methods.prompt.soft_prompt import SoftPrompt
from steerlens.models.hooks import Model, adapter, add_hooks, apply_edits, architecture, eval_mode
from steerlens.models.readout import readout
from steerlens.values.intervention import Edit, Strength
from steerlens.values.positions import TokenIndex, places_of
from steerlens.values.readout import Readout


@dataclass(frozen=True)
class GistMask:
    """The last `gist` tokens of a prompt are its gist, what stands before them is the instruction,
    which new text cannot see.

    Attention scores of every layer become −∞ where `gist_mask` hides what causality would not.
    Strength 0 is the plain model, any other the mask: it has no half. A prompt of at most `gist`
    tokens is all gist. The first new token is predicted by the last gist token, which sees
    everything, so all controls agree on it. Made by `mask_gist`, which makes sure that the model's
    attention heeds its scores.

    Args:
        gist: how many tokens at the end of the prompt.
        n_layers: of the model.
        readout: of the model.
        control: "gist", "positive" or "negative"; see `gist_mask`.
        begin: tokens at the beginning that stay visible, e.g. 1 for begin-of-text; 0 as published.
        name: for tables and figures.

    Raises:
        ValueError: numbers out of range, an unknown control.

    Example:
        >>> import torch
        >>> GistMask(2, 3, Readout(torch.eye(2), torch.zeros(2), ("a", "b"))).sites[0]
        'blocks.0.attn.hook_attn_scores'
    """

    gist: int
    n_layers: int
    readout: Readout
    control: Control = "gist"
    begin: int = 0
    name: str = "gist mask"
    file_kind: ClassVar[str] = "gist mask"

    def __post_init__(self) -> None:
        for label in ("gist", "n_layers"):
            if getattr(self, label) < 1:
                raise ValueError(f"{label}: got {getattr(self, label)}, expected at least 1")
        check_gist(self.control, self.begin)

    @property
    def prefix(self) -> int:
        """No rows before the input."""
        return 0

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(f"blocks.{layer}.attn.hook_attn_scores" for layer in range(self.n_layers))

    def edits(self, strength: Strength) -> tuple[Edit, ...]:
        def edit(
            scores: Float[Tensor, "batch head new keys"], places: TokenIndex
        ) -> Float[Tensor, "batch head new keys"]:
            on = torch.as_tensor(strength, device=scores.device) != 0
            hidden = self.hidden(places, scores.shape[3]) & on.reshape(-1, 1, 1)
            return scores.masked_fill(hidden[:, None], -torch.inf)

        return tuple((site, edit) for site in self.sites)

    def hidden(self, places: TokenIndex, n_keys: int) -> Bool[Tensor, "batch new keys"]:
        """Return what tokens may not attend to and otherwise would, of `n_keys` read so far.

        With a cache those read are more than the new ones.
        """
        index, end = places
        keys = index
        if index.shape[1] != n_keys:
            # tokens of a cache have no gap, and padding only before the first
            before = torch.arange(n_keys - 1, -1, -1, device=index.device)
            keys = (index[:, -1:] - before).clamp_min(-1)
        start = (end - self.gist).clamp_min(0)
        plain, seen = (
            gist_mask(keys, start, end, queries=index, control=control, begin=self.begin)
            for control in ("positive", self.control)
        )
        return plain & ~seen

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what a file keeps of it: it has no numbers that were fitted."""
        return {}, {name: getattr(self, name) for name in ("gist", "n_layers", "control", "begin")}

    @classmethod
    def unpack(
        cls, tensors: dict[str, Tensor], about: dict[str, Any], readout: Readout
    ) -> "GistMask":
        """Make it again from what `pack` gave."""
        return cls(
            about["gist"],
            about["n_layers"],
            readout,
            about["control"],
            about["begin"],
            about["name"],
        )


@dataclass(frozen=True, eq=False)
class Distilled:
    """A prompt of few rows that stands for a longer text, what it is worth, and how it was found.

    Args:
        value: the rows; its directions are zero, so every strength is the same.
        prompt: the text that it stands for.
        table: against its controls on texts that were held out; see
            `steerlens.methods.gist.distill.compression`.
        trials: held-out KL in nats per token, `heldout_kl`, after each `epoch`; the best one's rows
            are kept, which makes the table's last line a little too good (few choices, many
            positions).
        n_texts: continuations, held-out ones included.
        n_truncated: of them, cut to the context.
        seconds, seed: of the fit.
        settings: its other arguments.
    """

    value: SoftPrompt
    prompt: str
    table: pd.DataFrame
    trials: tuple[dict[str, float], ...]
    n_texts: int
    n_truncated: int
    seconds: float
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        last = self.table.iloc[-1]
        return (
            f"Distilled({self.prompt[:40]!r} into {self.value.prefix} rows: {last.gap_closed:.0%} of the gap closed, "
            f"{last.saved:.0f} tokens saved)"
        )

    def _repr_html_(self) -> str:
        return f"<p><b>{html.escape(repr(self))}</b></p>{self.table.to_html(float_format='{:.4f}'.format)}"


def mask_gist(
    model: Model,
    gist: int = 1,
    *,
    control: Control = "gist",
    begin: int = 0,
    name: str = "gist mask",
) -> GistMask:
    """Return a gist mask that works on this model.

    The last `gist` tokens of each prompt are all that new text sees of it.

    An intervention for `generate`, `collect`, `score` and `steered`; of labelled texts the prompts
    are theirs. Positions and the cache are the model's own. On a few random tokens it is tried
    whether attention heeds the mask at every layer.

    Args:
        model: of TransformerLens, which names the attention scores; unchanged.
        gist, control, begin, name: see `GistMask`.

    Raises:
        ValueError: an argument out of range, or a model whose attention does not read what is put
            at `hook_attn_scores`.
        KeyError: a model without this hook.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> data = sl.Labelled(("and the plot was slow .",), (0.0,), ("the film was very bad",))
        >>> masked, plain = (sl.score(model, data, mask_gist(model, 2, begin=1), strengths=(s,)) for s in (1, 0))
        >>> bool((masked.log_prob - plain.log_prob).abs().max() > 0.01)
        True
    """
    value = GistMask(gist, adapter(model).n_layers, readout(model), control, begin, name)
    check_heeds(model, value)
    return value


def check_heeds(model: Model, mask: GistMask) -> None:
    """Raise where some layer's attention does not heed a mask, which would then change nothing in
    silence."""
    deaf = [layer for layer, heard in enumerate(respects_mask(model, mask.n_layers)) if not heard]
    if deaf:
        raise ValueError(
            f"model: attention of {architecture(model)} ({type(model).__name__}) does not read what is put at "
            f"hook_attn_scores of layers {', '.join(map(str, deaf))}, so nothing can be hidden there; load its Hugging Face "
            "weights with steerlens.load_model, which gives attention whose scores can be edited"
        )


def respects_mask(model: Model, n_layers: int) -> tuple[bool, ...]:
    """Return whether each layer's attention gives no weight to what a mask hides."""
    W_U = adapter(model).W_U
    tokens = torch.randint(W_U.shape[1], (2, 5), generator=generator(0)).to(W_U.device)
    mask = GistMask(1, n_layers, readout(model))
    prompt = torch.full((2,), 3, device=tokens.device)
    places = places_of(torch.ones_like(tokens), prompt)
    hidden = mask.hidden(places, tokens.shape[1])
    heard: dict[int, bool] = {}

    def look(layer: int, pattern: torch.Tensor) -> torch.Tensor:
        heard[layer] = not bool(pattern.transpose(0, 1)[:, hidden].any())
        return pattern

    looks = [
        (f"blocks.{k}.attn.hook_pattern", lambda pattern, k=k: look(k, pattern))
        for k in range(n_layers)
    ]
    with (
        eval_mode(model),
        apply_edits(model, mask.edits(1.0), lambda _, t: places),
        add_hooks(model, looks),
    ):
        adapter(model).logits(tokens, torch.ones_like(tokens))
    return tuple(heard.get(layer, False) for layer in range(n_layers))
