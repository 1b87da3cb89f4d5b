"""Where the layers of a Hugging Face model lie, and how the states that pass them are replaced."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from steerlens.models.adapters.protocol import Adapter
from steerlens.models.guards import of_this_thread, uncompiled


def replace_made(made: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Return what a layer made with other states; some layers give them alone, some first of
    several."""
    if isinstance(made, Tensor):
        return function(made)
    return type(made)((function(made[0]), *made[1:]))


def replace_given(
    given: tuple[Any, ...],
    named: dict[str, Any],
    function: Callable[[Tensor], Tensor],
    name: str = "hidden_states",
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return what a module is given with other states, by place or by name."""
    if given:
        return (function(given[0]), *given[1:]), named
    return given, named | {name: function(named[name])}


def find_layers(adapter: Adapter) -> tuple[tuple[str, ...], bool]:
    """Return the paths of the layers, if one pass runs them once each, in order, on states of one
    shape, and whether they return these alone."""
    from steerlens.models.hooks import eval_mode  # which knows the adapters, so it is asked late

    model = adapter.model
    n = getattr(adapter.configs[-1], "num_hidden_layers", None)
    # a model of pictures and text may have as many layers for either, and lists of other things
    lists = {
        path: sum(p.numel() for p in module.parameters())
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == n
    }
    tokens = torch.zeros(2, 3, dtype=torch.long, device=adapter.W_U.device)
    ran: dict[str, list[tuple[int, bool, bool]]] = {path: [] for path in lists}
    is_ours = of_this_thread()

    def look(path: str, k: int) -> Callable[..., None]:
        def hook(_: Any, given: tuple[Any, ...], named: dict[str, Any], made: Any) -> None:
            if not is_ours():  # but the user's own, meanwhile
                return
            before = given[0] if given else named.get("hidden_states")
            alone = isinstance(made, Tensor)
            after = made if alone else made[0] if type(made) is tuple else None
            same = (
                isinstance(before, Tensor)
                and isinstance(after, Tensor)
                and before.shape == after.shape
                and after.shape[:-1] == tokens.shape
            )
            ran[path].append((k, same, alone))

        return hook

    # dropout would draw from the user's generator, and whole layers may be dropped too
    with eval_mode(adapter), uncompiled(), ExitStack() as stack:
        for path in lists:
            for k, block in enumerate(model.get_submodule(path).children()):
                hook = block.register_forward_hook(look(path, k), with_kwargs=True)
                stack.callback(hook.remove)
        if lists:
            adapter.logits(tokens, torch.ones_like(tokens))
    # of several that ran so, the layers have most of the parameters
    for path in sorted(lists, key=lambda path: -lists[path]):
        alone = all(entry[2] for entry in ran[path])
        if ran[path] == [(k, True, alone) for k in range(n or 0)]:
            return tuple(f"{path}.{k}" for k in range(n or 0)), alone
    return (), True
