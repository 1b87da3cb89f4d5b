"""Plain Hugging Face models, as `AutoModelForCausalLM` loads them, without TransformerLens."""

import inspect
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from steerlens.maths.brief import brief
from steerlens.models.adapters.check import check_output, check_plain, check_tokenizer
from steerlens.models.adapters.context import WITHOUT_BOS, longest
from steerlens.models.adapters.layers import find_layers, replace_given, replace_made
from steerlens.models.adapters.protocol import Hook, Step, ends_of, positions_of
from steerlens.models.guards import as_written, check_still_there
from steerlens.values.hook_names import EMBED, resid_post, resid_pre
from steerlens.values.intervention import UNEMBED_IN, UNEMBED_OUT

CACHES = ("past_key_values", "cache_params", "state", "past_buckets_states", "mems")
"""What architectures call what they keep between calls."""


@dataclass(frozen=True, eq=False)
class HuggingFace:
    """A plain Hugging Face model with its tokenizer, wherever steerlens takes a model.

    The model is used as it is. It may be given alone too (`sl.readout(model)`): its tokenizer is
    then read from where the model was loaded. This pairs it with another, or with one where the
    model was made in memory.

    Hook names are TransformerLens': `unembed.hook_in` and `unembed.hook_out` are the input and the
    output of the output embedding, `hook_embed` the output of the input embedding, `blocks.k.hook_resid_pre` and
    `blocks.k.hook_resid_post` what enters and leaves the k-th layer. Hooks inside a layer
    (attention's scores, keys, values) are TransformerLens' alone.

    Args:
        model: any `AutoModelForCausalLM`.
        tokenizer: its tokenizer; None to read the one beside the model's weights, if there is one.
        prepend_bos: whether texts begin with its begin-of-text token; None: as TransformerLens has
            it, by the family and not by what the tokenizer adds, so that both read a text alike.

    Raises:
        ValueError: what is no causal language model with an output embedding of its own; what is no
            tokenizer.

    Example:
        >>> import steerlens as sl
        >>> from steerlens.models.folders import find_model
        >>> from transformers import AutoModelForCausalLM
        >>> model = AutoModelForCausalLM.from_pretrained(find_model("toy-64"))
        >>> sl.collect(HuggingFace(model), ["the film was good ."], progress=False).n_positions
        6
    """

    model: Any
    tokenizer: Any = None
    prepend_bos: bool | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", as_written(self.model))
        check_plain(self.model)
        check_tokenizer(self.tokenizer)
        if self.prepend_bos is not None and not isinstance(self.prepend_bos, bool):
            got = f"prepend_bos: got {brief(self.prepend_bos)}"
            raise ValueError(f"{got}, expected True, False, or None for what its family does")
        if self.tokenizer is None:
            object.__setattr__(self, "tokenizer", tokenizer_of(self.model))

    @property
    def module(self) -> nn.Module:
        return self.model

    @property
    def W_U(self) -> Float[Tensor, "d_model vocab"]:
        return self.unembedding.weight.T

    @property
    def b_U(self) -> Float[Tensor, " vocab"]:
        head = self.unembedding
        bias = getattr(head, "bias", None)
        return head.weight.new_zeros(len(head.weight)) if bias is None else bias

    @property
    def W_E(self) -> Float[Tensor, "vocab width"]:
        return self.model.get_input_embeddings().weight

    @property
    def unembedding(self) -> Any:
        return self.model.get_output_embeddings()

    @property
    def text_config(self) -> Any:
        """The configuration of the language model, of a model that reads more than texts."""
        config = self.model.config
        return (
            config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
        )

    @property
    def configs(self) -> tuple[Any, ...]:
        return self.model.config, self.text_config

    @property
    def architecture(self) -> str:
        return type(self.model).__name__

    @property
    def name(self) -> str:
        return str(getattr(self.model, "name_or_path", None) or self.architecture)

    @property
    def n_layers(self) -> int:
        return len(self._layers[0]) or int(getattr(self.text_config, "num_hidden_layers", 0))

    @property
    def d_model(self) -> int:
        # of the layers: the head of OPT-350m reads half of that
        return int(getattr(self.text_config, "hidden_size", self.unembedding.weight.shape[1]))

    @property
    def n_ctx(self) -> int:
        return longest(self.model, self.text_config, self.tokenizer)

    @property
    def prepends_bos(self) -> bool:
        """Whether there is such a token and the family was trained with it, unless it is given; what
        the tokenizer adds by itself says little (SmolLM2's adds nothing)."""
        known = self.text_config.model_type not in WITHOUT_BOS
        wanted = known if self.prepend_bos is None else self.prepend_bos
        return wanted and getattr(self.tokenizer, "bos_token_id", None) is not None

    @property
    def end_ids(self) -> frozenset[int]:
        return ends_of(self.tokenizer, self.model)

    @property
    def hook_names(self) -> Collection[str]:
        layers = range(len(self._layers[0]))
        places = [name(k) for k in layers for name in (resid_pre, resid_post)]
        return [EMBED, *places, UNEMBED_IN, UNEMBED_OUT]

    @property
    def blocks(self) -> Sequence[Any]:
        """The layers as they were seen to run; empty where they are not called one after the other
        on one stream of states."""
        return [self.model.get_submodule(path) for path in self._layers[0]]

    @property
    def states_alone(self) -> bool:
        return self._layers[1]

    @property
    def _layers(self) -> tuple[tuple[str, ...], bool]:
        known = _LAYERS.get(self.model)
        if known is None or (known[0] and not _still_there(self.model, known[0])):
            known = _LAYERS[self.model] = find_layers(self)
        return known

    @contextmanager
    def hook(self, functions: Sequence[Hook]) -> Iterator[None]:
        """Run functions at their hooks inside the block; hooks that were there before stay."""
        with ExitStack() as stack:
            placed = []
            for name, function in functions:
                # in one line, so that Ctrl-C does not come between
                stack.callback((handle := self._place(name, function)).remove)
                placed.append(handle)
            yield
            check_still_there(placed)

    def _place(self, name: str, function: Callable[[Tensor], Tensor]) -> Any:
        """Set one hook of torch on the module that a name stands for."""
        if name == UNEMBED_IN:
            # the layers before it may be on another device, from where it would be taken next
            return self.unembedding.register_forward_pre_hook(
                lambda head, given, named: replace_given(
                    given, named, lambda c: function(c.to(head.weight.device)), "input"
                ),
                with_kwargs=True,
            )
        if name == UNEMBED_OUT:
            return self.unembedding.register_forward_hook(lambda _, given, made: function(made))
        if name == EMBED:
            embedding = self.model.get_input_embeddings()
            return embedding.register_forward_hook(lambda _, given, made: function(made))
        _, layer, place = name.split(".")
        block = self.model.get_submodule(self._layers[0][int(layer)])
        if place == "hook_resid_post":
            return block.register_forward_hook(lambda _, given, made: replace_made(made, function))
        return block.register_forward_pre_hook(
            lambda _, given, named: replace_given(given, named, function), with_kwargs=True
        )

    def logits(
        self, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"] | None
    ) -> Float[Tensor, "batch pos vocab"]:
        """Run the model on tokens under a mask."""
        return self._run(tokens, mask, {"use_cache": False}).logits

    def _run(self, tokens: Tensor, mask: Tensor | None, options: dict[str, Any]) -> Any:
        """Run the model with those arguments that its class knows."""
        accepted, any_name = _accepted(self.model)
        given = options | {"return_dict": True}
        if mask is not None:
            given["attention_mask"] = mask
            if not bool(mask[:, 0].all()):  # padding on the left moves the texts
                given["position_ids"] = positions_of(mask)[:, -tokens.shape[1] :]
        optional = {"position_ids", "logits_to_keep", "use_cache", *CACHES}
        known = {
            name: value
            for name, value in given.items()
            if name in accepted or (any_name and name not in optional)
        }
        made = self.model(input_ids=tokens, **known)
        check_output(self.model, made)
        return made

    def read_behind(self, tokens: Tensor, mask: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """Return the logits of tokens that are read behind keys and values, and these with them."""
        options = {"use_cache": True} | ({} if cache is None else {"past_key_values": cache})
        found = self._run(tokens, mask, options)
        return found.logits, found.past_key_values

    def decoder(self) -> Step:
        """Return a step with the model's own cache, prepared as its own `generate` does."""
        cache: dict[str, Any] = {}
        seen: list[Tensor] = []

        def step(new: Tensor, mask: Tensor) -> Tensor:
            nonlocal cache
            seen.append(new)
            first = len(seen) == 1
            tokens = new if first or cache else torch.cat(seen, dim=1)
            options = {"use_cache": True, "logits_to_keep": 1, **cache}
            # a recurrent state has the padding behind it, and takes no mask of what it has read
            recurrent = not first and bool(cache) and "past_key_values" not in cache
            found = self._run(tokens, None if recurrent else mask, options)
            kept = ((name, getattr(found, name, None)) for name in CACHES)
            cache = {name: value for name, value in kept if value is not None}
            return found.logits[:, -1]

        return step


def _accepted(model: Any) -> tuple[frozenset[str], bool]:
    """Return the names of the arguments of a model's forward, and whether it takes any others.

    One that hands on what it is given (`**kwargs`), such as a model of peft, takes those of the
    model inside, or of the class that it is derived from.
    """
    inside: Any = getattr(model, "get_base_model", None)
    forwards = [model.forward, *([] if inside is None else [inside().forward])]
    forwards += [vars(kind)["forward"] for kind in type(model).__mro__ if "forward" in vars(kind)]
    found = [_arguments(getattr(forward, "__func__", forward)) for forward in forwards]
    through = next((k for k, (_, any_name) in enumerate(found) if not any_name), len(found))
    return frozenset().union(*(names for names, _ in found[: through + 1])), through > 0


@lru_cache
def _arguments(function: Callable[..., Any]) -> tuple[frozenset[str], bool]:
    """Return the names of a function's arguments, and whether it takes any others."""
    parameters = inspect.signature(function).parameters
    return frozenset(parameters), any(p.kind is p.VAR_KEYWORD for p in parameters.values())


_TOKENIZERS: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
"""The tokenizer beside the weights of a model, read once."""
_LAYERS: WeakKeyDictionary[Any, tuple[tuple[str, ...], bool]] = WeakKeyDictionary()
"""The paths of a model's layers and whether they return their states alone, looked for once, and
anew where there are more or fewer."""


def _still_there(model: nn.Module, paths: tuple[str, ...]) -> bool:
    """Return whether the list of a model's layers is as long as it was."""
    layers: Any = model.get_submodule(paths[0].rpartition(".")[0])
    return len(layers) == len(paths)


def tokenizer_of(model: Any) -> Any:
    """Return the tokenizer beside a model's weights; None where there is none on this machine."""
    if model not in _TOKENIZERS:
        from transformers import AutoTokenizer

        found, path = None, getattr(model, "name_or_path", "")
        if path:
            try:
                found = AutoTokenizer.from_pretrained(
                    path, local_files_only=True, trust_remote_code=False
                )
            except (OSError, ValueError, KeyError, ImportError):
                found = None
        # of weights alone transformers makes some, by their class's name, that know no word
        _TOKENIZERS[model] = found if found is not None and found.vocab_size else None
    return _TOKENIZERS[model]
