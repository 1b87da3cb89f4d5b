"""Put an intervention into a running model, and take it out again."""

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import local
from typing import Any

import torch
from torch import Tensor, nn

from steerlens.maths.brief import class_name
from steerlens.maths.numbers import as_count, as_floats, as_number
from steerlens.models.adapters import Model
from steerlens.models.guards import check_reached, exclusive
from steerlens.models.hooks import adapter, apply_edits
from steerlens.models.readout import readout
from steerlens.values.fit import Fit, value_of
from steerlens.values.intervention import UNEMBED_IN, UNEMBED_OUT, Intervention, Strength
from steerlens.values.positions import TokenIndex
from steerlens.values.readout import bit_sum

INPUTS = ("input_ids", "inputs_embeds")
"""What models call the tokens of a pass."""
CACHE = "past_key_values"
"""What they call the cache that knows how many it holds."""
KEPT = "logits_to_keep"
"""What they call the places, or the number of last ones, whose logits alone are wanted."""


@contextmanager
def steered(
    model: Model,
    intervention: Intervention | Fit,
    strength: Strength = 1.0,
    *,
    prompt: int | None = None,
) -> Iterator[Model]:
    """Run the block with the model steered; afterwards it is as before, however the block is left.

    Everything works under it: `model(...)` and `model.generate` of a plain Hugging Face model (also
    beams and assisted generation; where `load_model(name, plain=True)` gave it with its tokenizer,
    those of its `.model`), and of TransformerLens `generate_stream`, `hf_generate` and
    `run_with_cache` too. Hooks that were there before stay. Nested blocks compose as maps, the inner
    one acting on what the outer one made: `c (I + aA)(I + bB)`; the sum `c (I + aA + bB)` is
    `steered(model, a * A + b * B)`. A generator that waits at a `yield` inside a block has not left it:
    the model is steered for whoever asked it, and blocks of two that take turns compose, which is an
    error when the first is left.

    An intervention that acts on some tokens of the prompt (`fit_reft`) has to know which they are.
    Here a pass goes on behind what the model's cache holds; the first pass is the end of the prompt,
    unless `prompt` says how many tokens the prompt has. Give it without a cache, where a prompt is
    read in several passes (`prefill_chunk_size`), and for assisted generation, whose first pass holds
    more. A cache that was begun outside of the block holds the prompt's beginning. Padding counts as
    tokens: `steerlens.generate`, `score` and `collect` know better.

    Args:
        model: of TransformerLens or of Hugging Face.
        intervention: e.g. a `Steer`, or `steer.with_background(background)`; a `Fit` stands for its
            value.
        strength: a number, or a tensor with one value per row of the batch.
        prompt: tokens of the whole prompt, begin-of-text included, where the first pass does not end
            with it.

    Raises:
        ValueError: the intervention lives on another `W_U`, or puts rows before the input; a
            strength that is no finite number.
        RuntimeError: another thread or task has the model inside such a block; inside, where the model
            is copied, pickled, traced or exported, run by a thread or task that is older than the block, or, where each
            row has a strength of its own, given to a verb of steerlens; at its
            end, where a block that was entered later is still open; in a pass that goes past a hook
            of the block.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> joy = sl.fit_steer(sl.collect(model, sl.toy.corpus("sentiment", n=100, seed=0))).value
        >>> with sl.steered(model, joy, strength=2.0):
        ...     text = model.generate("the film was", max_new_tokens=5, verbose=False)
    """
    intervention = value_of(intervention)
    check_lives_on(intervention, model)
    # before the block is entered, not in its first pass
    by_row = isinstance(strength, Tensor) and strength.ndim > 0
    if isinstance(strength, Tensor) and by_row:
        as_floats(strength.tolist(), "strength")  # in one copy from the device
    else:
        one = as_number(strength, "strength", "a finite number, or a tensor with one per row")
        as_floats(one, "strength")  # that float32 holds it
    if prompt is not None:
        as_count(prompt, "prompt", "how many tokens the prompt has, at least 1, or None")
    if intervention.prefix:
        raise ValueError(
            f"intervention: {intervention!r} needs {intervention.prefix} rows before the input, which a model that others run "
            "cannot be given; use steerlens.generate, score or collect"
        )
    found, edits = adapter(model), tuple(intervention.edits(strength))
    module = getattr(found.model, "original_model", found.model)
    passes = _Passes(prompt, [site for site, _ in edits], _cache_place(module))
    with (
        exclusive(found.model, by_user=True, by_row=by_row) as block,
        _uncopied(found.module),
        apply_edits(model, edits, passes.places, ours=block.admits),
        # last: the model's layers may be looked for before, by a pass that reaches no hook of these
        _watched(module, passes),
    ):
        yield model


class _Uncopied:
    """A hook that does nothing but refuse to be copied."""

    def __call__(self, *_: object) -> None:
        pass

    def __deepcopy__(self, memo: object) -> None:
        _refuse_copy()

    def __reduce_ex__(self, protocol: object) -> Any:
        _refuse_copy()


def _refuse_copy() -> Any:
    raise RuntimeError(
        "model: copied or pickled inside `with steerlens.steered(...)`, where the copy would stay steered for good; "
        "copy it outside of the block, or make a steered copy that says so: steerlens.export.fold"
    )


@contextmanager
def _uncopied(module: nn.Module) -> Iterator[None]:
    """Refuse copies of a model inside the block: hooks are copied with it, and no end of a block
    takes those of a copy away."""
    with ExitStack() as stack:
        # in one line, so that Ctrl-C does not come between
        stack.callback(module.register_forward_pre_hook(_Uncopied()).remove)
        yield


class _Passes(local):
    """Where the tokens of each pass belong: behind what the model's cache holds, where it shows it,
    also of what was read before the block; an empty one, or none, is that of a new text.

    Otherwise a pass over several tokens is a prompt, and one over a single token goes on behind what
    was read before; each edit sees every pass once. Each thread has passes of its own.
    """

    def __init__(self, prompt: int | None, sites: list[str], cache_place: int | None) -> None:
        self.prompt, self.sites, self.cache_place = prompt, sites, cache_place
        self.told = False
        self.reached: set[int] = set()
        self.first, self.behind, self.read = 0, 0, 0
        self.kept: Tensor | None = None
        self.known: dict[int, tuple[int, int]] = {}

    def look(self, _: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Remember how many tokens a pass has, which of them the unembedding sees, and how many its
        cache holds.

        Raises:
            RuntimeError: the pass is traced or exported.
        """
        if torch.jit.is_tracing() or torch.compiler.is_compiling():
            raise RuntimeError(
                "model: traced or exported inside `with steerlens.steered(...)`, where the trace would stay steered for good; "
                "do it outside of the block, or with a steered copy that says so: steerlens.export.fold"
            )
        tokens = next((t for t in (*given, *map(named.get, INPUTS)) if isinstance(t, Tensor)), None)
        held, self.read = self._held(given, named), 0 if tokens is None else tokens.shape[1]
        self.told, self.behind = held is not None, held or 0
        self.reached.clear()
        kept = named.get(KEPT)
        self.kept = kept if isinstance(kept, Tensor) and kept.ndim == 1 else None
        if self.behind == 0 or self.first == 0:
            self.first = self.prompt or self.behind + self.read

    def _held(self, given: tuple[Any, ...], named: dict[str, Any]) -> int | None:
        """Return how many tokens the cache of a pass holds; None where it does not say."""
        if self.cache_place is None:  # the model may keep a state that nobody sees
            return None
        placed = given[self.cache_place] if len(given) > self.cache_place else None
        cache = named.get(CACHE, placed)
        if cache is None:
            return 0
        length = getattr(cache, "get_seq_length", None)
        try:
            return None if length is None else int(length())
        except ValueError:  # of a state alone
            return None

    def passed(self, _: nn.Module, given: tuple[Any, ...], made: Any) -> None:
        """Raise where a pass that gave logits or a loss of them went past a hook."""
        whole = isinstance(made, tuple) or any(
            getattr(made, name, None) is not None for name in ("logits", "loss")
        )
        if whole:
            check_reached(self.sites, self.reached)

    def __deepcopy__(self, memo: object) -> None:
        _refuse_copy()

    def __reduce_ex__(self, protocol: object) -> Any:
        _refuse_copy()

    def places(self, k: int, t: Tensor) -> TokenIndex:
        """Return the places of an activation; the unembedding may see a pass's last tokens alone, or
        those that `logits_to_keep` names."""
        self.reached.add(k)
        rows, n = t.shape[:2]
        within = torch.arange(n, device=t.device)
        if self.kept is not None and self.sites[k] in (UNEMBED_IN, UNEMBED_OUT):
            n = self.read
            within = torch.arange(n, device=t.device)[self.kept.to(t.device)]
        if self.told and self.first and n <= self.read:
            first, start = self.first, self.behind + self.read - n
        else:
            first, start = self.known.get(k, (0, 0))
            if start == 0 or n > 1:
                first, start = n if self.prompt is None else self.prompt, 0
        self.known[k] = (first, start + n)
        index = (start + within).expand(rows, len(within))
        return TokenIndex(index, torch.full((rows,), first, device=t.device))


def _cache_place(module: nn.Module) -> int | None:
    """Return the place of the cache among what a model's forward is given; None where it has none."""
    accepted = list(inspect.signature(module.forward).parameters)
    return accepted.index(CACHE) if CACHE in accepted else None


@contextmanager
def _watched(module: nn.Module, passes: _Passes) -> Iterator[None]:
    """Watch what the passes of a model are given inside the block, and what they come by."""
    with ExitStack() as stack:
        # in one line each, so that Ctrl-C does not come between
        stack.callback(module.register_forward_pre_hook(passes.look, with_kwargs=True).remove)
        stack.callback(module.register_forward_hook(passes.passed).remove)
        yield


def check_intervention(value: object, name: str = "intervention") -> None:
    """Raise, with the next step, where something else than an intervention was given."""
    if not isinstance(value, Intervention):
        if not isinstance(value, type) and all(
            callable(getattr(value, verb, None)) for verb in ("generate", "score")
        ):
            raise ValueError(
                f"{name}: a {type(value).__name__} changes no activation of one model, it writes by itself: "
                "value.generate(model, prompts, …), value.score(model, texts, …), steerlens.evaluate.compare"
            )
        raise ValueError(
            f"{name}: got {class_name(value)}, expected a Steer, Reft, Prompt or another value with `readout`, "
            "`prefix` and `edits(strength)`; of a file: steerlens.load(path, model)"
        )


def check_lives_on(intervention: Intervention, model: Model, name: str = "intervention") -> None:
    """Raise where an intervention's numbers do not refer to this model's unembedding."""
    check_intervention(intervention, name)
    home, found = intervention.readout, adapter(model)
    W_U = found.W_U
    shared = W_U.data_ptr() == home.W_U.data_ptr() and W_U.shape == home.W_U.shape
    # the very same tensor; whether something was written to it its address does not say
    if shared and bit_sum(W_U.detach(), found.b_U.detach()) == home.checksum:
        return
    here = readout(model)
    if home.same_as(here):
        return
    if home.W_U.shape == here.W_U.shape and home.W_U.dtype != here.W_U.dtype:
        device, coarse = here.W_U.device, min(home.W_U.dtype, here.W_U.dtype, key=_bits)
        if torch.equal(*(r.W_U.detach().to(device, coarse) for r in (home, here))):
            raise ValueError(
                f"{name}: its model has the dtype {home.W_U.dtype}, this one {here.W_U.dtype}; the two W_U are the "
                "same but for rounding, which changes the digest that binds them. Load the model with dtype="
                f"{str(home.W_U.dtype).removeprefix('torch.')!r}, or take it to this one: steerlens.export.rebase(steer, model)"
            )
    raise ValueError(
        f"{name}: it lives on the W_U of {home.model_id!r} (d_model {home.d_model}, digest {home.digest[:8]}), this "
        f"model is {here.model_id!r} (d_model {here.d_model}, digest {here.digest[:8]}); folding a norm, centring W_U or "
        "fine-tuning changes it too. Load the raw weights (steerlens.load_model), or move the steer with "
        "steerlens.transfer"
    )


def _bits(dtype: torch.dtype) -> int:
    return torch.finfo(dtype).bits
