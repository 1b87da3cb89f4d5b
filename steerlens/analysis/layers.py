"""Where in a model a style can be steered: the same map at every layer and site, at equal cost."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from steerlens.evaluate.draws import compare_draws
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.methods.hidden.fit import fit_hidden_steer
from steerlens.methods.hidden.hidden_steer import HiddenSteer
from steerlens.methods.steer.fit import fit_steer
from steerlens.models.hooks import Model, adapter
from steerlens.values.fit import Fit
from steerlens.values.hook_names import EMBED
from steerlens.values.intervention import UNEMBED_IN
from steerlens.values.labelled import Labelled
from steerlens.values.progress import hidden
from steerlens.values.training import USUAL, Training

STEER = "steer"
"""The name of the steer at the unembedding in a table of sites."""


@torch_defaults()
def sites_of(model: Model) -> tuple[str, ...]:
    """Return the sites at which a model's states can be steered, in the order in which they are run.

    The embeddings of the input, what attention and MLP add in each layer (where the model has these
    hooks), the stream behind each layer, and the input of the unembedding.

    Example:
        >>> import steerlens as sl
        >>> sites_of(sl.load_model("toy-64"))[:4]
        ('hook_embed', 'blocks.0.hook_attn_out', 'blocks.0.hook_mlp_out', 'blocks.0.hook_resid_post')
    """
    found = adapter(model)
    names = [
        f"blocks.{k}.hook_{part}"
        for k in range(found.n_layers)
        for part in ("attn_out", "mlp_out", "resid_post")
    ]
    return tuple(site for site in (EMBED, *names, UNEMBED_IN) if site in found.hook_names)


@torch_defaults()
def steer_by_site(
    model: Model,
    draws: Sequence[Labelled],
    test: Labelled,
    *,
    sites: Sequence[str] | None = None,
    rank: int = 4,
    kl: float = 0.05,
    training: Training = USUAL,
    progress: bool = True,
) -> pd.DataFrame:
    """Fit the map of hidden states at each site to each draw of texts, and hold all at the same KL
    against the steer at the unembedding.

    Args:
        draws: labelled texts; each is fitted by itself, and means are over them.
        test: labelled texts that are in none of them.
        sites: see `HiddenSteer`; None: `sites_of(model)`.
        rank: of the maps.
        kl: nats per token, mean of both signs.
        training: see `fit_hidden_steer`.
        progress: show a bar.

    Returns:
        What `compare_draws` returns, with `site` and `seconds` of a fit; the first row is the steer.

    Example:
        >>> import steerlens as sl
        >>> model, quick = sl.load_model("toy-64"), sl.Training(lr=0, epochs=1)
        >>> texts, test = sl.toy.corpus("tone", n=60, seed=0), sl.toy.corpus("tone", n=40, seed=1)
        >>> table = steer_by_site(model, [texts], test, sites=["hook_embed"], training=quick, progress=False)
        >>> table.site.tolist()
        ['steer', 'hook_embed']
    """
    sites = sites_of(model) if sites is None else tuple(sites)
    steers = [fit_steer(model, texts, progress=False) for texts in draws]
    fits: dict[str, Sequence[Fit[Any]]] = {STEER: steers}
    total = len(sites) * len(draws)
    with tqdm(total=total, unit="fit", desc="sites", disable=hidden(progress)) as bar:
        for site in sites:
            at: list[Fit[HiddenSteer]] = []
            for texts in draws:
                at.append(
                    fit_hidden_steer(
                        model, texts, site=site, rank=rank, training=training, progress=False
                    )
                )
                bar.update()
            fits[site] = at
    table = compare_draws(model, fits, test, against=STEER, kl=kl).rename(columns={"name": "site"})
    seconds = {
        name: sum(fit.report.seconds for fit in each) / len(draws) for name, each in fits.items()
    }
    return table.assign(seconds=table.site.map(seconds))
