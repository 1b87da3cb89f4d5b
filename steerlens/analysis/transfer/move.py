"""Move a steer to another model."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.analysis.transfer.align import align
from steerlens.analysis.transfer.distill import context_map, distil, selftrain
from steerlens.maths.brief import class_name
from steerlens.maths.least_squares import procrustes, pseudo_inverse
from steerlens.maths.numbers import as_seed
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.models.hooks import Model, check_model
from steerlens.models.load import load_model
from steerlens.models.pair import pair
from steerlens.models.readout import as_readout
from steerlens.values.alignment import Alignment
from steerlens.values.fit import Fit, value_of
from steerlens.values.labelled import Labelled
from steerlens.values.pairs import Pairs
from steerlens.values.readout import Readout
from steerlens.values.rules import READ_TEXT, RULES, Rule
from steerlens.values.steer import Steer
from steerlens.values.texts import as_choice, as_texts
from steerlens.values.warn import warn_user


@torch_defaults()
def transfer(
    src: Steer | Fit,
    tgt: Model | Readout | str | Path,
    *,
    rule: Rule = "congruence",
    text: Labelled | Sequence[str] | Pairs | None = None,
    source: Model | None = None,
    alignment: Alignment | None = None,
    seed: int = 0,
) -> Steer:
    """Return the steer on another model that does what a steer does on its own.

    Shared tokens give a map `e_src ≈ H e_tgt` between output embeddings (`align`). What the source
    adds to a logit is `c W e`, so the target needs `W'` with `c_tgt W' e_tgt ≈ c_src W e_src`; the
    rules differ in what they take for `c_src`:

        "congruence"   W' = HᵀWH            contexts map as embeddings do; exact for every W only if H is orthogonal
        "similarity"   W' = H⁺WH            contexts map by the inverse, as c·e demands; exact under any change of basis
        "procrustes"   W' = QᵀWQ            Q the orthogonal map nearest to H's task
        "authors"      W' = NᵀWN            N = H with columns of length 1, as the paper's script has it
        "paired"       W' = GᵀWH            c_src ≈ G c_tgt fitted on the contexts of both models on one text
        "distil"       W' = argmin E Var_p(u − u')      the logit shifts u' nearest to the source's u on one text
        "selftrain"    the mean of "distil" and of a steer fitted on the target to strengths that the source reads in a text

    The first four look at the vocabularies alone and cost milliseconds. The next two read text
    without labels, and the last the same twice. Between models of one tokenizer "congruence" and
    "authors" keep more than half of a directly trained steer's effect at equal KL, "similarity"
    less (it alone is exact between two bases of one model), "paired" more, "distil" and "selftrain"
    nearly all; across tokenizers that share half of their words only the last two keep more than
    half. The page on moves (docs/move.md) has the numbers. Strength 1 means little after a move except with "distil"
    and "selftrain": see `strength_at_kl`. Source: Han et al. (arXiv 2305.12798), section 5.3, eq.
    3, and appendix F.

    Args:
        src: the steer, bound to its read-out; a `Fit` stands for its value.
        tgt: the model to move it to, or its name, which is loaded; its read-out is enough for rules
            without text.
        rule: see above.
        text: texts like those that the steer is meant for, some thousand, for the rules that read;
            or the `Pairs` that `pair` made of them, which saves reading them again. Labels are not
            looked at.
        source: the model of `src`, which the rules that read need, unless `text` is `Pairs`.
        alignment: from `align`, for the rules with an `H`; None: all shared tokens alike, without a
            ridge, as the paper.
        seed: of what is sampled and fitted.

    Returns:
        A `Steer` on the target, of the same name.

    Warns:
        UserWarning: the two vocabularies have nothing in common that could be mapped.

    Raises:
        ValueError: an unknown rule, too few shared tokens (see `align`), text missing or not
            wanted, an alignment or pairs of other models.

    Example:
        >>> import steerlens as sl
        >>> big, small = sl.load_model("toy-128"), sl.load_model("toy-64")
        >>> tone = sl.fit_steer(sl.collect(big, sl.toy.corpus("tone", n=300, seed=0), progress=False), name="tone").value
        >>> transfer(tone, small).readout.model_id
        'toy-64'
    """
    as_choice(rule, "rule", RULES)
    seed = as_seed(seed)
    src = value_of(src)
    if not isinstance(src, Steer):
        raise ValueError(
            f"src: got {class_name(src)}, expected a Steer; only what lives at the unembedding can be moved"
        )
    if isinstance(tgt, str | Path):
        tgt = load_model(tgt)
    src.readout.check_unchanged()
    on = as_readout(tgt, "tgt")
    if source is not None:
        check_model(source, "source")
    if rule not in READ_TEXT:
        if text is not None or source is not None:
            raise ValueError(
                f"text, source: rule {rule!r} reads no text; leave them out, or use rule='paired', 'distil' or 'selftrain'"
            )
        found = _aligned(alignment, src, on, seed)
        return _moved(src, on, _algebra(rule, src.W.double().cpu(), found))
    pairs = _pairs(src, tgt, on, rule, text, source)
    if rule == "paired":
        found = _aligned(alignment, src, on, seed)
        return _moved(src, on, context_map(pairs).M @ src.W.double().cpu() @ found.H)
    if alignment is not None:
        raise ValueError(f"alignment: rule {rule!r} compares logits and needs none; leave it out")
    steer = distil(src, pairs, seed=seed) if rule == "distil" else selftrain(src, pairs, seed=seed)
    return _moved(src, on, steer.W)


def _algebra(
    rule: Rule, W: Float[Tensor, "d_src d_src"], found: Alignment
) -> Float[Tensor, "d_tgt d_tgt"]:
    H = found.H
    if rule == "similarity":
        return pseudo_inverse(H) @ W @ H
    if rule == "procrustes":
        X, Y = found.embeddings()
        H = procrustes(X, Y, found.weights).mT
    elif rule == "authors":
        H = H / H.norm(dim=0).clamp_min(1e-30)
    return H.mT @ W @ H


def _moved(src: Steer, on: Readout, W: Tensor) -> Steer:
    return replace(src, W=W.to(device=on.W_U.device, dtype=torch.float32), readout=on)


def _pairs(
    src: Steer,
    tgt: Model | Readout,
    on: Readout,
    rule: Rule,
    text: Labelled | Sequence[str] | Pairs | None,
    source: Model | None,
) -> Pairs:
    if text is None:
        raise ValueError(
            f"text: rule {rule!r} reads text; pass text= (some thousand texts without labels) and source= (the model of "
            f"{src.name!r}), or use rule='congruence', which reads none"
        )
    if not isinstance(text, Pairs):
        if source is None or isinstance(tgt, Readout):
            missing = (
                "source: pass the model of the steer"
                if source is None
                else "tgt: pass the model, not its read-out"
            )
            raise ValueError(f"{missing}; rule {rule!r} lets both models read the text")
        plain = text.texts if isinstance(text, Labelled) else as_texts(text, "text")
        text = pair(source, tgt, plain, progress=False)
    for name, theirs, ours in (
        ("source", text.src.readout, src.readout),
        ("tgt", text.tgt.readout, on),
    ):
        if not theirs.same_as(ours):
            raise ValueError(
                f"{name}: the text was read by {theirs.model_id!r} ({theirs.digest[:8]}), expected {ours.model_id!r} "
                f"({ours.digest[:8]}), the model that "
                + ("the steer lives on" if name == "source" else "the steer is moved to")
            )
    return text


def _aligned(alignment: Alignment | None, src: Steer, on: Readout, seed: int) -> Alignment:
    """Return the alignment that was given, or one of all shared tokens; warn where it knows
    nothing."""
    found = align(src.readout, on, seed=seed) if alignment is None else _checked(alignment, src, on)
    if found.r2 <= 0:
        warn_user(
            f"src, tgt: on their {len(found.tokens):,} shared tokens the output embeddings of {src.readout.model_id!r} tell "
            f"nothing of those of {on.model_id!r} (R² {found.r2:.2f} on tokens that were not fitted), so the moved steer is "
            "noise; is one of them not trained, or without its own tokenizer? Rule 'distil' reads text instead"
        )
    return found


def _checked(alignment: Alignment, src: Steer, on: Readout) -> Alignment:
    if not isinstance(alignment, Alignment):
        raise ValueError(
            f"alignment: got {class_name(alignment)}, expected an Alignment; steerlens.align(source, target) makes one"
        )
    if not (alignment.src.same_as(src.readout) and alignment.tgt.same_as(on)):
        raise ValueError(
            f"alignment: it is from {alignment.src.model_id!r} to {alignment.tgt.model_id!r}, expected from "
            f"{src.readout.model_id!r} to {on.model_id!r}; make it with align(source, target), or reverse the two"
        )
    return alignment
