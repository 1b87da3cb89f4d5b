"""Models of TransformerLens: `TransformerBridge` (3.x and 4.x) and `HookedTransformer` (3.x), raw
or processed."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from steerlens.models.adapters import bridge, hooked_transformer
from steerlens.models.adapters.context import n_positions, read_alike
from steerlens.models.adapters.protocol import Hook, Step, ends_of
from steerlens.models.guards import check_still_there


@dataclass(frozen=True, eq=False)
class TransformerLens:
    """A model of TransformerLens as the verbs see it.

    Its classes are told apart by what they have, never by inheritance: everything a steer does is
    expressed on the model's own `W_U`.
    """

    model: Any

    @property
    def module(self) -> nn.Module:
        return self.model

    @property
    def tokenizer(self) -> Any:
        return getattr(self.model, "tokenizer", None)

    @property
    def W_U(self) -> Float[Tensor, "d_model vocab"]:
        return self.model.W_U

    @property
    def b_U(self) -> Float[Tensor, " vocab"]:
        return self.model.b_U

    @property
    def W_E(self) -> Float[Tensor, "vocab width"]:
        return self.model.W_E

    @property
    def unembedding(self) -> nn.Module | None:
        unembed = getattr(self.model, "unembed", None)
        return getattr(unembed, "original_component", unembed)

    @property
    def configs(self) -> tuple[Any, ...]:
        return self.model.cfg, getattr(getattr(self.model, "original_model", None), "config", None)

    @property
    def architecture(self) -> str:
        cfg = self.model.cfg
        found = getattr(cfg, "original_architecture", None) or getattr(cfg, "architecture", None)
        return str(found or "unknown")

    @property
    def name(self) -> str:
        return str(getattr(self.model.cfg, "model_name", None) or self.architecture)

    @property
    def n_layers(self) -> int:
        return int(self.model.cfg.n_layers)

    @property
    def d_model(self) -> int:
        return int(self.model.cfg.d_model)

    @property
    def n_ctx(self) -> int:
        said = int(self.model.cfg.n_ctx)
        table = getattr(getattr(self.model, "pos_embed", None), "original_component", None)
        return min(said, n_positions(table, said), *(read_alike(c, said) for c in self.configs))

    @property
    def prepends_bos(self) -> bool:
        return bool(self.model.cfg.default_prepend_bos)

    @property
    def end_ids(self) -> frozenset[int]:
        return ends_of(self.tokenizer, getattr(self.model, "original_model", None))

    @property
    def hook_names(self) -> Collection[str]:
        return self.model.hook_dict

    @property
    def blocks(self) -> Sequence[Any]:
        return list(self.model.blocks)

    @property
    def states_alone(self) -> bool:
        return True

    @contextmanager
    def hook(self, functions: Sequence[Hook]) -> Iterator[None]:
        """Run functions at their hooks inside the block; hooks that were there before stay."""

        def as_hook(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
            return lambda tensor, hook: function(tensor)

        hooks = [(name, as_hook(function)) for name, function in functions]
        with self.model.hooks(fwd_hooks=hooks):
            counts = Counter(name for name, _ in functions)
            placed = [
                handle.hook
                for name, n in counts.items()
                for handle in self.model.hook_dict[name].fwd_hooks[-n:]
            ]
            yield
            check_still_there(placed)

    def logits(
        self, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"] | None
    ) -> Float[Tensor, "batch pos vocab"]:
        """Run the model on tokens under a mask."""
        return self.model(tokens) if mask is None else self.model(tokens, attention_mask=mask)

    def decoder(self) -> Step:
        """Return a step that keeps what was read between calls."""
        wraps = hasattr(self.model, "original_model")
        return bridge.decoder(self.model) if wraps else hooked_transformer.decoder(self.model)
