"""Run Inspect's tasks on a steered model: a provider of Inspect AI, under the name "steerlens".

    inspect eval task.py --model steerlens/FOLDER -M steer=joy.safetensors -M strength=2 --seed 0

It needs the package inspect-ai: `pip install steerlens[inspect]`. Beside it the provider is there by
itself (an entry point); from Python `inspect_model` gives a model to `inspect_ai.eval`.
"""

import secrets
from functools import cache, partial
from importlib.util import find_spec
from typing import Any, NamedTuple

from steerlens.methods.files import load
from steerlens.models.adapters import Model
from steerlens.models.generate import edited_steps
from steerlens.models.hooks import adapter, check_model, model_id
from steerlens.models.load import load_model
from steerlens.models.pieces import continuation
from steerlens.models.sampling import Drawing, Warp
from steerlens.models.steering import check_lives_on
from steerlens.models.writing import generate_by
from steerlens.values.fit import Fit, value_of
from steerlens.values.intervention import Intervention

MAX_TOKENS = 256
"""Where a task names no number."""
REFUSED = (
    "best_of", "frequency_penalty", "presence_penalty", "logit_bias", "logprobs", "top_logprobs",
    "prompt_logprobs", "response_schema", "modalities",
)  # fmt: skip
"""Settings that would change the text or what is told of it, and that are not here."""


class Loaded(NamedTuple):
    """A model in memory and what steers it, as `inspect_model` hands them to Inspect."""

    model: Model
    steer: Intervention | None


def inspect_model(
    model: Model,
    steer: Intervention | Fit | None = None,
    *,
    strength: float = 1.0,
    config: Any = None,
) -> Any:
    """Return a model for `inspect_ai.eval(task, model=…)` that is steered while it answers.

    Messages go through the model's chat template; a model without one reads their contents, line by
    line. Texts are drawn as by `steerlens.generate`: temperature 1 unless the task says otherwise,
    the same texts for the same seed, other ones each time without. What a task may not ask for is
    refused by name: tools, penalties, biases, log-probabilities, a schema, more than text.

    Args:
        model: unchanged, and used by one request at a time.
        steer: a `Fit` stands for its value; None for the plain model.
        strength: of the steer.
        config: Inspect's, e.g. `GenerateConfig(max_tokens=20, seed=0)`; a task's own goes first.

    Raises:
        ImportError: inspect-ai is not installed.
        ValueError: a steer of another model.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> inspect_ai.eval(task, model=inspect_model(model, joy, strength=2))    # doctest: +SKIP
    """
    check_model(model)
    value = value_of(steer)
    if value is not None:
        check_lives_on(value, model, "steer")
    try:
        from inspect_ai.model import get_model  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ImportError(
            "inspect_model needs inspect-ai: pip install 'steerlens[inspect]'"
        ) from None
    return get_model(
        f"steerlens/{model_id(model)}",
        config=config,
        memoize=False,  # Inspect would take two values for the same model
        steer=Loaded(model, value),
        strength=strength,
    )


@cache
def provider() -> type:
    """Return the class that Inspect makes a model of: a `ModelAPI` with the arguments `steer` (the
    path of a file; "" for the plain model), `strength`, and `plain` (without TransformerLens, for
    what acts on no hook inside a layer).

    Raises:
        ImportError: inspect-ai is not installed.
    """
    import anyio.to_thread
    from inspect_ai.model import (  # pyright: ignore[reportMissingImports]
        GenerateConfig,
        ModelAPI,
        ModelOutput,
    )

    class SteerlensAPI(ModelAPI):
        """A steered model, as Inspect sees it."""

        def __init__(
            self,
            model_name: str,
            base_url: str | None = None,
            api_key: str | None = None,
            config: GenerateConfig = GenerateConfig(),  # noqa: B008  (Inspect's own default)
            steer: Any = "",
            strength: float = 1.0,
            plain: bool = False,
        ) -> None:
            super().__init__(model_name, base_url, api_key, [], config)
            self.loaded = steer if isinstance(steer, Loaded) else _load(model_name, steer, plain)
            self.strength = float(strength)

        def max_connections(self) -> int:
            """Return how many requests are answered at once: a model has one reader."""
            return 1

        async def generate(
            self, input: list, tools: list, tool_choice: Any, config: GenerateConfig
        ) -> ModelOutput:
            """Return what the steered model says to some messages."""
            asked = [name for name in REFUSED if getattr(config, name, None) not in (None, False)]
            if tools or asked:
                what = f"tools, the first {tools[0].name!r}" if tools else asked[0]
                raise ValueError(
                    f"task: it asks for {what}, which a steered model does not offer here; take it out"
                )
            prompt = as_prompt(adapter(self.loaded.model).tokenizer, input)
            write = partial(_answer, self.loaded, self.strength, prompt, config, self.model_name)
            return await anyio.to_thread.run_sync(write)

    return SteerlensAPI


def as_prompt(tokenizer: Any, messages: list[Any]) -> str:
    """Return messages as the model reads them: in its chat template, or else line by line.

    Raises:
        ValueError: a message that holds more than text.
    """
    for message in messages:
        if not isinstance(message.content, str):
            more = [part.type for part in message.content if part.type not in ("text", "reasoning")]
            if more:
                raise ValueError(
                    f"input: a message holds {more[0]!r}, expected text; this model reads nothing else"
                )
    if getattr(tokenizer, "chat_template", None):
        turns = [{"role": message.role, "content": message.text} for message in messages]
        return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return "\n".join(message.text for message in messages)


def _load(name: str, steer: Any, plain: bool) -> Loaded:
    if not isinstance(steer, str):
        # by its name Inspect would take it for the same model as with any other object
        raise ValueError(
            f"steer: got {type(steer).__name__}, expected the path of a file; a value goes through "
            "steerlens.export.inspect_ai.inspect_model(model, steer)"
        )
    lm = load_model(name, plain=plain)
    return Loaded(lm, value_of(load(steer, lm)) if steer else None)


def _answer(loaded: Loaded, strength: float, prompt: str, config: Any, name: str) -> Any:
    """Return what a steered model writes behind a prompt, as Inspect's `ModelOutput`."""
    from inspect_ai.model import (  # pyright: ignore[reportMissingImports]
        ChatCompletionChoice,
        ChatMessageAssistant,
        ModelOutput,
        ModelUsage,
    )

    lm, steer = loaded
    temperature, top_p = (1.0 if x is None else x for x in (config.temperature, config.top_p))
    seed = secrets.randbelow(1 << 31) if config.seed is None else config.seed
    most = config.max_tokens or MAX_TOKENS
    sizes: list[tuple[int, list[int]]] = []

    def spelled(tokenizer: Any, ids: list[int], new: list[int]) -> str:
        sizes.append((len(ids), new))
        return continuation(tokenizer, ids, new)

    table = generate_by(
        lm, [prompt], edited_steps(lm, steer), strength,
        Drawing(config.num_choices or 1, seed, most, Warp(temperature, top_p, config.top_k)),
        prefix=0 if steer is None else steer.prefix, as_text=spelled,
    )  # fmt: skip
    ends, choices = adapter(lm).end_ids, []
    for text, (_, new) in zip(table.text, sizes, strict=True):
        cut = min((text.find(s) for s in config.stop_seqs or () if s in text), default=None)
        stopped = cut is not None or not ends.isdisjoint(new[-1:])
        reason = "stop" if stopped else "max_tokens" if len(new) == most else "model_length"
        message = ChatMessageAssistant(content=text[:cut], model=name, source="generate")
        choices.append(ChatCompletionChoice(message=message, stop_reason=reason))
    read, wrote = sizes[0][0], sum(len(new) for _, new in sizes)
    usage = ModelUsage(input_tokens=read, output_tokens=wrote, total_tokens=read + wrote)
    return ModelOutput(model=name, choices=choices, usage=usage)


if find_spec("inspect_ai") is not None:  # its entry point imports this module, so that it is known
    from inspect_ai.model import modelapi  # pyright: ignore[reportMissingImports]

    modelapi(name="steerlens")(provider)
