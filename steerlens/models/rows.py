"""Rows before the input, and whether a model reads them as the tokens that they stand for."""

from collections.abc import Callable, Iterable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from steerlens.models.adapters import Adapter, Model
from steerlens.models.fingerprint import fingerprint
from steerlens.models.hooks import adapter, add_hooks, architecture, eval_mode
from steerlens.models.probe import probe_tokens
from steerlens.models.readout import readout
from steerlens.models.tokenization import filler
from steerlens.values.intervention import UNEMBED_IN, UNEMBED_OUT, Intervention

AGREES, AGREES_IN_HALF = 1e-3, 1e-1
"""Largest difference of logits behind rows and behind their tokens, relative to their size."""
ROWS = 3
"""How many are tried."""
KEYS_VALUES = (".hook_k", ".hook_v")


def check_prefix(intervention: Intervention, model: Model) -> None:
    """Raise where an intervention's rows before the input are not read as tokens; see
    `check_rows`."""
    if intervention.prefix:
        sites = (site for site, _ in intervention.edits(0.0))
        check_rows(model, [s for s in sites if s not in (UNEMBED_IN, UNEMBED_OUT)])


def check_rows(model: Model, sites: Iterable[str]) -> None:
    """Raise where what a model makes of tokens, put in the place of fillers, is not these tokens.

    A prompt of rows stands for tokens at some hooks alone: what else a model keeps of a token (an
    embedding for each layer, looked up by its id; a recurrent state beside keys and values) would
    be the filler's. Keys and values are tried at all layers, whichever a prompt takes. Tried once
    per model and hooks, on a few random tokens.

    Args:
        sites: hooks whose activations have positions on their second axis.

    Raises:
        ValueError: the logits behind the rows are others than behind the tokens; keys and values
            where some layers have none.
        KeyError: no such hook.
    """
    asked = adapter(model)
    sites = _all_that_is_kept(asked, tuple(dict.fromkeys(sites)))
    known, tried = _KNOWN.setdefault(asked.model, set()), (fingerprint(asked), sites)
    if not sites or tried in known:
        return
    tokens = probe_tokens(model, readout(model).n_tokens)
    filled, ones = tokens.clone(), torch.ones_like(tokens)
    filled[:, :ROWS] = filler(asked.tokenizer)
    seen: dict[str, Tensor] = {}

    def keep(site: str) -> Callable[[Tensor], Tensor]:
        def hook(t: Tensor) -> Tensor:
            seen[site] = t.clone()  # some models go on to write into it
            return t

        return hook

    def put(site: str) -> Callable[[Tensor], Tensor]:
        return lambda t: torch.cat([seen[site][:, :ROWS], t[:, ROWS:]], dim=1)

    with eval_mode(model):
        with add_hooks(model, [(site, keep(site)) for site in sites]):
            expected = asked.logits(tokens, ones)[:, ROWS:].float()
        with add_hooks(model, [(site, put(site)) for site in sites]):
            found = asked.logits(filled, ones)[:, ROWS:].float()
    error = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-6))
    if not error <= (AGREES if asked.W_U.dtype == torch.float32 else AGREES_IN_HALF):
        first = next(iter(sites))
        others = f" and {len(sites) - 1} more hooks" if len(sites) > 1 else ""
        raise ValueError(
            f"model: {architecture(model)} does not read rows at {first}{others} as the tokens that they stand for: logits "
            f"behind them are off by {error:.2g} of their size. It keeps more of a token than these hooks hold (embeddings per "
            "layer, a recurrent state), so a prompt of this kind would stand on fillers; take another kind, a steer "
            "(fit_steer) or an edit of hidden states (fit_reft)"
        )
    known.add(tried)


def _all_that_is_kept(asked: Adapter, sites: tuple[str, ...]) -> tuple[str, ...]:
    """Return the hooks to try: of keys and values those of all layers, anything else as it is."""
    parts = dict.fromkeys(site.split(".", 2)[2] for site in sites if site.endswith(KEYS_VALUES))
    every = tuple(f"blocks.{k}.{part}" for k in range(asked.n_layers) for part in parts)
    names = asked.hook_names
    lacking = [site for site in every if site not in names]
    if lacking and len(lacking) < len(every):
        raise ValueError(
            f"model: {asked.architecture} keeps more of a token than keys and values: there is no {lacking[0]} (of "
            f"{asked.n_layers} layers {len(lacking) // len(parts)} lack it), so rows in their place would not be all that later "
            "tokens see; take kind='soft' or 'deep'"
        )
    return tuple(dict.fromkeys((*sites, *every)))


_KNOWN: WeakKeyDictionary[Model, set[tuple[int, tuple[str, ...]]]] = WeakKeyDictionary()
"""Hooks at which a model, as it was, reads rows as tokens."""
