"""A gist mask for a model, where its attention heeds one."""

import torch

from steerlens.maths.gist import Control
from steerlens.maths.numbers import generator
from steerlens.models.readout import readout
from steerlens.models.sites import Model, architecture, edited, evaluating, hooked
from steerlens.values.gist import GistMask
from steerlens.values.positions import places_of


def mask_gist(
    model: Model, gist: int = 1, *, control: Control = "gist", begin: int = 0, name: str = "gist mask"
) -> GistMask:
    """A gist mask that works on this model: the last `gist` tokens of each prompt are all that new text sees of it.

    An intervention for `generate`, `collect`, `score` and `steered`; of labelled texts the prompts are theirs. Positions and
    the cache are the model's own. On a few random tokens it is tried whether attention heeds the mask at every layer.

    Args:
        model: a TransformerLens model; unchanged.
        gist, control, begin, name: see `GistMask`.

    Raises:
        ValueError: an argument out of range, or a model whose attention does not read what is put at `hook_attn_scores`.
        KeyError: a model without this hook.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> data = sl.Labelled(("and the plot was slow .",), (0.0,), ("the film was very bad",))
        >>> masked, plain = (sl.score(model, data, mask_gist(model, 2, begin=1), strengths=(s,)) for s in (1, 0))
        >>> bool((masked.log_prob - plain.log_prob).abs().max() > 0.01)
        True
    """
    value = GistMask(gist, int(model.cfg.n_layers), readout(model), control, begin, name)
    check_heeds(model, value)
    return value


def check_heeds(model: Model, mask: GistMask) -> None:
    """Raise where some layer's attention does not heed a mask, which would then change nothing in silence."""
    deaf = [layer for layer, heard in enumerate(heeds(model, mask.n_layers)) if not heard]
    if deaf:
        raise ValueError(
            f"model: attention of {architecture(model)} ({type(model).__name__}) does not read what is put at "
            f"hook_attn_scores of layers {', '.join(map(str, deaf))}, so nothing can be hidden there; load its Hugging Face "
            "weights with steerlens.load_model, which gives attention whose scores can be edited"
        )


def heeds(model: Model, n_layers: int) -> tuple[bool, ...]:
    """Whether each layer's attention gives no weight to what a mask hides."""
    tokens = torch.randint(model.W_U.shape[1], (2, 5), generator=generator(0)).to(model.W_U.device)
    mask = GistMask(1, n_layers, readout(model))
    prompt = torch.full((2,), 3, device=tokens.device)
    places = places_of(torch.ones_like(tokens), prompt)
    hidden = mask.hidden(places, tokens.shape[1])
    heard: dict[int, bool] = {}

    def look(layer: int, pattern: torch.Tensor) -> torch.Tensor:
        heard[layer] = not bool(pattern.transpose(0, 1)[:, hidden].any())
        return pattern

    looks = [(f"blocks.{k}.attn.hook_pattern", lambda pattern, k=k: look(k, pattern)) for k in range(n_layers)]
    with evaluating(model), edited(model, mask.edits(1.0), lambda _, t: places), hooked(model, looks):
        model(tokens, attention_mask=torch.ones_like(tokens))
    return tuple(heard.get(layer, False) for layer in range(n_layers))
