"""What the verbs ask of a model, whatever library it comes from."""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

Hook = tuple[str, Callable[[Tensor], Tensor]]
"""The name of a hook, as in TransformerLens, and a function from its activation to another."""

Step = Callable[[Int[Tensor, "batch new"], Int[Tensor, "batch pos"]], Float[Tensor, "batch vocab"]]
"""Reads new tokens behind those it has read, under a mask of all so far, and returns the logits
after the last of them. It is called first with the left-padded prompts, then with one token per
row."""


def positions_of(mask: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """Return the position of each token in its text, 0 for padding on the left.

    Example:
        >>> positions_of(torch.tensor([[0, 0, 1, 1]]))
        tensor([[0, 0, 0, 1]])
    """
    return (mask.cumsum(1) - 1).clamp_min(0)


def ends_of(tokenizer: Any, model: Any) -> frozenset[int]:
    """Return the tokens that end a text: the tokenizer's end-of-text, and with it whatever the model
    was published to stop at (its `generation_config`), such as the end of a chat's turn.

    None for a tokenizer without end-of-text.

    Example:
        >>> from types import SimpleNamespace as Of
        >>> chat = Of(generation_config=Of(eos_token_id=[1, 106]))
        >>> sorted(ends_of(Of(eos_token_id=1), chat)), sorted(ends_of(Of(eos_token_id=1), None))
        ([1, 106], [1])
        >>> alone = Of(generation_config=Of(eos_token_id=torch.tensor(0)))
        >>> sorted(ends_of(Of(eos_token_id=1), alone))
        [0, 1]
    """
    own = getattr(tokenizer, "eos_token_id", None)
    said = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    # a number, several, or a tensor of either
    more = [] if said is None else torch.as_tensor(said).flatten().tolist()
    return frozenset() if own is None else frozenset([own, *more])


if TYPE_CHECKING:

    class Adapter(Protocol):
        """A model as the verbs see it; one file per library.

        Three things make a read-out (`W_U`, `b_U`, `configs`), `hook` is how activations are seen and
        replaced, `logits` and `decoder` run the model. The model itself is never wrapped: an adapter
        holds it, and puts nothing into it that does not come out again.
        """

        @property
        def model(self) -> Any:
            """The user's own model, whose threads take turns and whose caches are keyed by it."""
            ...

        @property
        def module(self) -> nn.Module:
            """What has its parameters and modes."""
            ...

        @property
        def tokenizer(self) -> Any:
            """Its Hugging Face tokenizer, or None."""
            ...

        @property
        def W_U(self) -> Float[Tensor, "d_model vocab"]:
            """The model's own unembedding, a view and no copy."""
            ...

        @property
        def b_U(self) -> Float[Tensor, " vocab"]:
            """Its bias, zeros where it has none."""
            ...

        @property
        def W_E(self) -> Float[Tensor, "vocab width"]:
            """Its input embeddings, as they are stored."""
            ...

        @property
        def unembedding(self) -> nn.Module | None:
            """The module that multiplies by `W_U`, for messages."""
            ...

        @property
        def configs(self) -> tuple[Any, ...]:
            """Where scale and soft cap of the logits are named."""
            ...

        @property
        def architecture(self) -> str: ...

        @property
        def name(self) -> str:
            """The model's name or folder, for messages and files."""
            ...

        @property
        def n_layers(self) -> int: ...

        @property
        def d_model(self) -> int: ...

        @property
        def n_ctx(self) -> int:
            """The longest sequence that it reads."""
            ...

        @property
        def prepends_bos(self) -> bool:
            """Whether texts begin with the tokenizer's begin-of-text token."""
            ...

        @property
        def end_ids(self) -> frozenset[int]:
            """The tokens that end a text while it is written; see `ends_of`."""
            ...

        @property
        def hook_names(self) -> Collection[str]: ...

        @property
        def blocks(self) -> Sequence[Any]:
            """The layers, in the order in which they run; empty where they are not known."""
            ...

        @property
        def states_alone(self) -> bool:
            """Whether a layer returns its states themselves, not a tuple that begins with them."""
            ...

        def hook(self, functions: Sequence[Hook]) -> AbstractContextManager[None]:
            """Run functions at their hooks inside the block; hooks that were there before stay."""
            ...

        def logits(
            self, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"] | None
        ) -> Float[Tensor, "batch pos vocab"]:
            """Run the model on tokens, padded on either side where the mask says so."""
            ...

        def decoder(self) -> Step:
            """Return a step that keeps keys and values (or a state) between calls."""
            ...

    class TransformerLensModel(Protocol):
        """A `TransformerBridge`, or on TransformerLens 3.x a `HookedTransformer`."""

        cfg: Any
        tokenizer: Any

        @property
        def hook_dict(self) -> Any: ...
        @property
        def W_U(self) -> Any: ...

    class HuggingFaceModel(Protocol):
        """Any `AutoModelForCausalLM` of transformers."""

        config: Any

        def get_output_embeddings(self) -> Any: ...

    Model = TransformerLensModel | HuggingFaceModel | Adapter
else:  # at run time `adapter` says by name what is no model; to check a protocol asks for each property
    Adapter = Model = Any
