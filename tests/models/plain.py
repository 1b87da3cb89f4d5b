"""Plain Hugging Face models that answer the questions our tests ask of TransformerLens models.

What is asked is answered by torch's own hooks on modules that are named here by hand, so that the
package's adapter is compared with something that knows nothing of it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from steerlens.models.adapters import HuggingFace

LAYERS = {"gpt2": "transformer.h", "opt": "model.decoder.layers"}
EMBEDDINGS = {"gpt2": "transformer.wte", "opt": "model.decoder.embed_tokens"}
Hooks = Sequence[tuple[str, Callable[..., Any]]]


class Plain(HuggingFace):
    """To the package a `HuggingFace` like any; to the tests a model with TransformerLens' names."""

    def __call__(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.model(tokens, attention_mask=attention_mask).logits

    @property
    def cfg(self) -> Any:
        config = self.model.config
        begins = self.tokenizer.bos_token_id is not None
        return SimpleNamespace(
            n_layers=config.num_hidden_layers,
            n_ctx=config.max_position_embeddings,
            d_model=self.model.get_input_embeddings().weight.shape[1],
            default_prepend_bos=begins,
        )

    @property
    def original_model(self) -> Any:
        return self.model

    @property
    def training(self) -> bool:
        return self.model.training

    def train(self) -> None:
        self.model.train()

    def modules(self) -> Iterator[nn.Module]:
        return self.model.modules()

    def parameters(self) -> Iterator[nn.Parameter]:
        return self.model.parameters()

    def generate(self, ids: Tensor, *, verbose: bool = True, **options: Any) -> Tensor:
        return self.model.generate(ids, attention_mask=torch.ones_like(ids), **options)

    @contextmanager
    def hooks(self, fwd_hooks: Hooks) -> Iterator[None]:
        with ExitStack() as stack:
            for name, function in fwd_hooks:
                stack.callback(self.place(name, function).remove)
            yield

    def place(self, name: str, function: Callable[..., Any]) -> Any:
        """Set a hook `(tensor, hook) -> tensor or None` at the module that a name means."""

        def changed(t: Tensor) -> Tensor:
            made = function(t, None)
            return t if made is None else made

        kind = self.model.config.model_type
        where = LAYERS.get(kind, "model.layers")
        if name == "unembed.hook_in":
            return self.model.lm_head.register_forward_pre_hook(lambda m, x: (changed(x[0]),))
        if name == "unembed.hook_out":
            return self.model.lm_head.register_forward_hook(lambda m, x, y: changed(y))
        if name == "hook_embed":
            embed = self.model.get_submodule(EMBEDDINGS.get(kind, "model.embed_tokens"))
            return embed.register_forward_hook(lambda m, x, y: changed(y))
        _, layer, place = name.split(".")
        block = self.model.get_submodule(f"{where}.{layer}")
        if place == "hook_resid_pre":
            return block.register_forward_pre_hook(lambda m, x: (changed(x[0]), *x[1:]))
        assert place == "hook_resid_post", name

        def after(m: nn.Module, x: Any, y: Any) -> Any:
            return changed(y) if isinstance(y, Tensor) else (changed(y[0]), *y[1:])

        return block.register_forward_hook(after)

    def run_with_hooks(self, tokens: Tensor, *, fwd_hooks: Hooks) -> Tensor:
        with self.hooks(fwd_hooks):
            return self(tokens)

    def run_with_cache(
        self, tokens: Tensor, *, names_filter: str | Sequence[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        seen: dict[str, Tensor] = {}
        names = [names_filter] if isinstance(names_filter, str) else list(names_filter)

        def look(name: str) -> Callable[..., None]:
            return lambda t, hook: seen.__setitem__(name, t.detach().clone())

        with self.hooks([(name, look(name)) for name in names]):
            return self(tokens), seen


def hook_count(model: HuggingFace) -> int:
    """How many hooks the modules of a plain model hold."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.model.modules())
