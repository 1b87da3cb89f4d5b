"""An intervention under conditions: a gate, and sums of what is behind gates."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from steerlens.maths.brief import brief
from steerlens.maths.numbers import as_number, is_number
from steerlens.values.condition_forms import pack_condition, parse_condition, unpack_condition
from steerlens.values.conditions import About, Condition
from steerlens.values.gated_terms import (
    ENDS,
    Chain,
    Term,
    check_term,
    edits_by_site,
    gated,
    merge_terms,
    name_of,
    product_of_weights,
    run_chain,
    seen_at,
    sites_of,
    sum_of_changes,
    term_name,
)
from steerlens.values.intervention import (
    UNEMBED_IN,
    UNEMBED_OUT,
    Edit,
    Intervention,
    Remembered,
    Strength,
    sum_name,
)
from steerlens.values.positions import TokenIndex
from steerlens.values.readout import Readout


@dataclass(frozen=True, eq=False)
class Gated:
    """Interventions that act under conditions, and sums of them:

        x' = x + Σ_k g_k · (edit_k(x) − x)

    at every site, with `g_k` the product of the weights of the k-th term's conditions. Of a steer
    that is `c' = c + s · g(c, place) · cW`. A gate of 0 leaves the activation bit for bit as it is;
    one term under a gate of 1 is the intervention itself. Conditions see the plain model's state,
    never what another term made of it. Made by `steer.when(…)`, or `when(intervention, …)` for
    anything else; `a + b`, `a - b`, `2 * a`, `-a`, `a / 2` work as for steers, with ungated steers
    too; factors are on strengths, so that a background under a gate, which has none, stays in `-a`.

    Conditions on places are exact under batches, padding on either side and a cache. Where words
    are gated (`Candidates`), or what is gated changes logits, everything at the unembedding
    happens on the logits, and no condition on a place can be had with it: texts that were read once
    are given their logits position by position.

    Args:
        terms: each an intervention, its conditions, and a factor on the strength.

    Raises:
        ValueError: no terms; interventions or conditions on different read-outs; rows before the
            input; conditions that an intervention's sites cannot tell.

    Example:
        >>> import torch
        >>> from steerlens.values.steer import Steer
        >>> r = Readout(torch.eye(2), torch.zeros(2), ("a", "b"))
        >>> joy = Steer(torch.eye(2), r, name="joy")
        >>> (2 * joy.when("entropy > 0.5") - joy).name
        '2·(joy when entropy > 0.5) - joy'
    """

    terms: tuple[Term, ...]
    prefix = 0
    file_kind: ClassVar[str] = "gated"

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError("terms: got none, expected an intervention at least")
        for value, when, _ in self.terms:
            check_term(value, when)
            for other in (value, *(c for c in when if isinstance(c, About))):
                if not self.readout.same_as(other.readout):
                    raise ValueError(
                        f"{name_of(other)!r} lives on the W_U of {other.readout.model_id!r} ({other.readout.digest[:8]}), "
                        f"{name_of(self.terms[0].value)!r} on that of {self.readout.model_id!r} ({self.readout.digest[:8]}); "
                        "move one with steerlens.transfer first"
                    )
        placed = [c for term in self._at_end for c in term.when if c.asks == "place"]
        if self._on_logits and placed:
            raise ValueError(
                f"when: {str(placed[0])!r} asks where a token is, and {self.name!r} acts on logits, which texts that were "
                "read once are given position by position; gate by places, or by words and logits, not both"
            )

    @property
    def readout(self) -> Readout:
        return self.terms[0].value.readout

    @property
    def name(self) -> str:
        if len(self.terms) == 1 and self.terms[0].factor == 1:
            return term_name(self.terms[0])
        named = [(term_name(term), term) for term in self.terms]
        return sum_name(tuple((f"({n})" if t.when else n, t.factor) for n, t in named))

    @cached_property
    def _at_end(self) -> tuple[Term, ...]:
        """The terms that act at the unembedding."""
        return tuple(t for t in self.terms if sites_of(t.value) & set(ENDS))

    @cached_property
    def _on_logits(self) -> bool:
        """Whether the unembedding's part happens behind it."""
        words = any(c.asks == "words" for term in self._at_end for c in term.when)
        return words or any(UNEMBED_OUT in sites_of(term.value) for term in self._at_end)

    def edits(self, strength: Strength) -> tuple[Edit, ...]:
        inside: dict[str, list[tuple[Term, Chain]]] = {}
        for term in self.terms:
            for site, functions in edits_by_site(term, strength).items():
                inside.setdefault(site, []).append((term, functions))
        behind = {site: inside.pop(site) for site in ENDS if self._on_logits and site in inside}
        edits: list[Edit] = [
            (site, lambda x, places, site=site, parts=parts: self._sum(site, x, places, parts))
            for site, parts in inside.items()
        ]
        if behind:
            plain = Remembered()

            def on_logits(z: Tensor, places: TokenIndex) -> Tensor:
                return self._sum_logits(z, plain.of(z), places, behind)

            edits += [(UNEMBED_IN, plain), (UNEMBED_OUT, on_logits)]
        return tuple(edits)

    def _sum(
        self, site: str, x: Tensor, places: TokenIndex, parts: Sequence[tuple[Term, Chain]]
    ) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        seen = seen_at(site, places, self.readout, c=wide if site == UNEMBED_IN else None)
        changes = [
            gated(product_of_weights(term.when, seen), wide, run_chain(chain, wide, places))
            for term, chain in parts
        ]
        return sum_of_changes(wide, changes).to(x.dtype)

    def _sum_logits(
        self,
        z: Tensor,
        c: Tensor,
        places: TokenIndex,
        parts: dict[str, list[tuple[Term, Chain]]],
    ) -> Tensor:
        wide = z.to(torch.promote_types(z.dtype, torch.float32))
        c = c.to(wide.dtype)
        W_U = self.readout.head_on(z.device).W_U.to(wide)
        seen = seen_at(UNEMBED_IN, places, self.readout, c=c, z=wide)
        changes = []
        for site, those in parts.items():
            for term, chain in those:
                if site == UNEMBED_IN:
                    edited = wide + (run_chain(chain, c, places) - c) @ W_U
                else:
                    edited = run_chain(chain, wide, places)
                changes.append(gated(product_of_weights(term.when, seen), wide, edited))
        return sum_of_changes(wide, changes).to(z.dtype)

    def when(self, *conditions: Condition | str) -> "Gated":
        """Ask for more: the conditions that are there and these have to hold together."""
        return when(self, *conditions)

    def __add__(self, other: Intervention) -> "Gated":
        if not isinstance(other, Intervention):
            return NotImplemented
        return Gated(merge_terms((*self.terms, *_terms(other))))

    def __radd__(self, other: object) -> "Gated":
        if isinstance(other, int) and other == 0:  # sum() begins with it
            return self
        if not isinstance(other, Intervention):
            return NotImplemented
        return Gated(merge_terms((*_terms(other), *self.terms)))

    def __mul__(self, factor: float) -> "Gated":
        if not is_number(factor):
            return NotImplemented
        by = as_number(factor, "factor", "a finite number")
        return Gated(tuple(t._replace(factor=by * t.factor) for t in self.terms))

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> "Gated":
        return self * (1 / divisor)

    def __neg__(self) -> "Gated":
        return self * -1

    def __sub__(self, other: Intervention) -> "Gated":
        if not isinstance(other, Intervention):
            return NotImplemented
        return self + -1 * Gated(_terms(other))

    def __rsub__(self, other: Intervention) -> "Gated":
        return -self + other

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what a file keeps of it; each term's own under its number.

        Raises:
            ValueError: an intervention or a condition that cannot be kept in a file.
        """
        tensors: dict[str, Tensor] = {}
        parts, terms = [], []
        for k, (value, when, factor) in enumerate(self.terms):
            if not hasattr(value, "pack"):
                raise ValueError(
                    f"{name_of(value)!r}: a {type(value).__name__} cannot be kept in a file; it has no `pack`"
                )
            own, about = value.pack()  # type: ignore[attr-defined]
            parts.append({"kind": value.file_kind, "name": name_of(value), **about})  # type: ignore[attr-defined]
            tensors |= {f"{k}.{name}": tensor for name, tensor in own.items()}
            packed = [pack_condition(condition) for condition in when]
            for j, (of, _) in enumerate(packed):
                tensors |= {f"when.{k}.{j}.{name}": tensor for name, tensor in of.items()}
            terms.append({"factor": factor, "when": [about for _, about in packed]})
        return tensors, {"parts": parts, "terms": terms}

    @classmethod
    def unpack(cls, tensors: dict[str, Tensor], about: dict[str, Any], readout: Readout) -> "Gated":
        """Make it again from what `pack` gave, its parts unpacked already."""
        terms = []
        for k, (value, term) in enumerate(zip(about["parts"], about["terms"], strict=True)):
            when = []
            for j, told in enumerate(term["when"]):
                own = f"when.{k}.{j}."
                of = {n.removeprefix(own): t for n, t in tensors.items() if n.startswith(own)}
                when.append(unpack_condition(of, told, readout))
            terms.append(Term(value, tuple(when), float(term["factor"])))
        return cls(tuple(terms))

    def __repr__(self) -> str:
        r = self.readout
        return f"Gated({self.name!r}, on {r.model_id!r} [{r.digest[:8]}])"


def when(intervention: Intervention, *conditions: Condition | str) -> Gated:
    """Return an intervention that acts only where all conditions hold; see `Gated`.

    Args:
        conditions: values of `steerlens.values.conditions`, or such words as
            `steerlens.values.condition_forms.parse_condition` reads.

    Raises:
        ValueError: no conditions; those that `Gated` refuses.

    Example:
        >>> import torch
        >>> from steerlens.values.steer import Steer
        >>> words = Readout(torch.eye(2), torch.zeros(2), ("a", "b"))
        >>> when(Steer(torch.eye(2), words, "joy"), "new", "entropy > 0.5").name
        'joy when new tokens, entropy > 0.5'
    """
    if not conditions:
        raise ValueError("when: got no condition, expected one at least, e.g. 'entropy > 1.5'")
    parsed = tuple(parse_condition(c) if isinstance(c, str) else c for c in conditions)
    for condition in parsed:
        if not isinstance(condition, Condition):
            raise ValueError(
                f"when: got {brief(condition)}, expected a condition of steerlens.values.conditions, or words such as "
                "'entropy > 1.5'"
            )
    if not isinstance(intervention, Intervention):
        raise ValueError(
            f"intervention: got {type(intervention).__name__}, expected a Steer or another intervention; of a fit take .value"
        )
    terms = _terms(intervention)
    return Gated(tuple(term._replace(when=(*term.when, *parsed)) for term in terms))


def _terms(value: Intervention) -> tuple[Term, ...]:
    return value.terms if isinstance(value, Gated) else (Term(value),)
