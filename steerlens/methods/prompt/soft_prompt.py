"""Learned rows before the input: prompt tuning, in three kinds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.brief import brief
from steerlens.maths.numbers import check_tensor
from steerlens.values.arguments import as_layers
from steerlens.values.hook_names import EMBED
from steerlens.values.intervention import Edit, Strength
from steerlens.values.positions import TokenIndex
from steerlens.values.readout import Readout, check_readout
from steerlens.values.steer import per_row
from steerlens.values.texts import as_name

Kind = Literal["soft", "deep", "kv"]


@dataclass(frozen=True, eq=False)
class SoftPrompt:
    """`n` rows before the input, begin-of-text included, that a model reads as if they were states
    of its own:

        P(s) = rows + s · directions

    The rows of strength 0 are what all texts have in common (the background of a steer's fit); the
    directions are what the label changes, so one value serves both signs. **Strength 0 is the
    neutral prompt, not the plain model.**

    - `"soft"`: token embeddings (Lester et al., arXiv 2104.08691).
    - `"deep"`: token embeddings, and again the inputs of some layers, where what has become of the
      rows is dropped and new ones take their place (Sedov et al., arXiv 2412.18582, section 3).
    - `"kv"`: keys and values of each layer, which is all that other tokens ever see of a prefix (Li
      and Liang, prefix tuning; P-tuning v2).

    Positions, masks and the cache are the model's own: filler tokens stand where the rows go, and
    are overwritten.

    Args:
        rows: `[n_sites, n, width]`: for "soft" one site of width d_model; for "deep" the embedding
            and each layer; for "kv" keys then values of each layer, before a rotation by position,
            width n_heads · d_head.
        directions: the same shape.
        kind: which of the three.
        layers: for "deep" and "kv"; () for "soft".
        readout: of the model.
        name: for tables and figures.

    Raises:
        ValueError: shapes that do not belong to the kind and the layers, NaN.

    Example:
        >>> import torch
        >>> r = Readout(torch.eye(2), torch.zeros(2), ("a", "b"))
        >>> SoftPrompt(torch.zeros(1, 3, 2), torch.ones(1, 3, 2), "soft", (), r).prefix
        3
    """

    rows: Float[Tensor, "n_sites n width"]
    directions: Float[Tensor, "n_sites n width"]
    kind: Kind
    layers: tuple[int, ...]
    readout: Readout
    name: str = "prompt"
    file_kind: ClassVar[str] = "prompt"

    def __post_init__(self) -> None:
        as_name(self.name)
        check_readout(self.readout)
        check_tensor(self.rows, "rows", "[n_sites, n, width]")
        check_tensor(self.directions, "directions", "[n_sites, n, width]")
        expected = len(prompt_sites(self.kind, self.layers))
        if (
            self.rows.shape != self.directions.shape
            or self.rows.shape[0] != expected
            or not self.rows.shape[1]
        ):
            raise ValueError(
                f"rows, directions: got shapes {tuple(self.rows.shape)} and {tuple(self.directions.shape)}, expected both "
                f"({expected}, n, width) for {self.kind!r} at layers {self.layers}, n at least 1"
            )
        if not all(bool(torch.isfinite(t).all()) for t in (self.rows, self.directions)):
            raise ValueError(
                f"rows or directions of {self.name!r} hold NaN or infinity; was the fit's step too large?"
            )

    @property
    def prefix(self) -> int:
        """Rows before the input."""
        return self.rows.shape[1]

    @property
    def n_parameters(self) -> int:
        """Numbers that were fitted."""
        return self.rows.numel() + self.directions.numel()

    def at(self, strength: float) -> Float[Tensor, "n_sites n width"]:
        """Return the rows at a strength."""
        return self.rows + strength * self.directions

    def edits(self, strength: Strength) -> tuple[Edit, ...]:
        return prompt_edits(self.rows, self.directions, self.kind, self.layers, strength)

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what a file keeps of it."""
        about = {"prompt_kind": self.kind, "layers": list(self.layers)}
        return {"rows": self.rows, "directions": self.directions}, about

    @classmethod
    def unpack(
        cls, tensors: dict[str, Tensor], about: dict[str, Any], readout: Readout
    ) -> "SoftPrompt":
        """Make it again from what `pack` gave."""
        what = about["prompt_kind"], tuple(about["layers"])
        return cls(tensors["rows"], tensors["directions"], *what, readout, about["name"])

    def __repr__(self) -> str:
        r = self.readout
        where = "" if self.kind == "soft" else f" at layers {', '.join(map(str, self.layers))}"
        return (
            f"SoftPrompt({self.name!r}, {self.kind}, {self.prefix} rows{where}, {self.n_parameters:,} parameters, on "
            f"{r.model_id!r} [{r.digest[:8]}])"
        )


def prompt_sites(kind: str, layers: tuple[int, ...]) -> tuple[str, ...]:
    """Return the hooks at which a kind of prompt takes its place, in the order of its rows."""
    if kind == "soft" and not layers:
        return (EMBED,)
    if kind == "deep" and layers:
        return (EMBED, *(f"blocks.{layer}.hook_resid_pre" for layer in layers))
    if kind == "kv" and layers:
        return tuple(f"blocks.{layer}.attn.hook_{part}" for layer in layers for part in "kv")
    raise ValueError(
        f"kind, layers: got {brief(kind)} at layers {layers}, expected 'soft' without layers, or 'deep' or 'kv' with some"
    )


def prompt_layers(kind: str, layers: Sequence[int] | None, n_layers: int) -> tuple[int, ...]:
    """Return the layers of a prompt: those given, or for "deep" the last third and for "kv" all.

    Raises:
        ValueError: a layer that is not there, or layers that do not belong to the kind.
    """
    usual = {
        "soft": (),
        "deep": range(n_layers - max(n_layers // 3, 1), n_layers),
        "kv": range(n_layers),
    }
    given = usual.get(str(kind), ()) if layers is None else layers
    none = isinstance(given, Sequence) and not len(given)
    picked = () if none else as_layers(given, n_layers)
    prompt_sites(kind, picked)  # raises where kind and layers do not go together
    return picked


def prompt_edits(
    rows: Float[Tensor, "n_sites n width"],
    directions: Float[Tensor, "n_sites n width"],
    kind: str,
    layers: tuple[int, ...],
    strength: Strength,
) -> tuple[Edit, ...]:
    """Put `rows + s · directions` in the place of the first `n` tokens at every site."""

    def at(k: int) -> Callable[[Tensor, TokenIndex], Tensor]:
        def edit(t: Tensor, places: TokenIndex) -> Tensor:
            n = rows.shape[1]
            flat = t.flatten(2)
            if flat.shape[2] != rows.shape[2]:
                raise ValueError(
                    f"rows: width {rows.shape[2]} at a site of width {flat.shape[2]}; they are of another model"
                )
            inside = (places.index >= 0) & (places.index < n)
            which = places.index.clamp(0, n - 1)
            base, along = rows[k].to(t.device)[which], directions[k].to(t.device)[which]
            new = (base + per_row(strength, flat) * along).to(t.dtype)
            return torch.where(inside[..., None], new, flat).reshape(t.shape)

        return edit

    return tuple((site, at(k)) for k, site in enumerate(prompt_sites(kind, layers)))
