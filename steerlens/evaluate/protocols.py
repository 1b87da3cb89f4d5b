"""What is written and how it is judged: detoxification and sentiment control, as in the papers or
small."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from steerlens.evaluate.scorers.card import Scorer
from steerlens.evaluate.verbs import Sampling
from steerlens.maths.brief import brief, class_name
from steerlens.models.hooks import Model
from steerlens.values.texts import as_texts


class Preset(NamedTuple):
    """How much is written: prompts of each kind (None: all of them), and how."""

    n_prompts: int | None
    sampling: Sampling


PRESETS = {
    "lm-steer": Preset(None, Sampling(samples=25, max_new_tokens=20, top_p=0.9)),
    "small": Preset(40, Sampling(samples=5, max_new_tokens=20, top_p=0.9)),
}
"""`"lm-steer"` has all settings of Han et al., sections 4.1 and 4.2: 25 samples of up to 20 tokens,
top-p 0.9, temperature 1, every prompt (the papers take 10,000). One thing differs: a text of ours
ends where the model ends it, theirs are never shorter than 20 tokens."""


@dataclass(frozen=True)
class Protocol:
    """Prompts by kind, what judges the texts, and which way they are to go. Made by
    `detoxification` and `sentiment`, or as it stands for a task of one's own.

    Args:
        name: of the task.
        groups: kinds of prompts with their prompts.
        scorer: of the attribute, from 0 to 1.
        wanted: whether the texts are to score "high" or "low".
        side: sign of the strengths that are to bring that about.
        scored: "text", the continuation alone, or "whole", with its prompt.
        sampling: how texts are drawn.
        evaluator: the model whose perplexity tells fluency; None: the unsteered one.

    Raises:
        ValueError: no prompts, a kind without prompts, an option that is not one.
    """

    name: str
    groups: tuple[tuple[str, tuple[str, ...]], ...]
    scorer: Scorer
    wanted: Literal["high", "low"] = "high"
    side: Literal[1, -1] = 1
    scored: Literal["text", "whole"] = "text"
    sampling: Sampling = PRESETS["small"].sampling
    evaluator: Model | None = None

    def __post_init__(self) -> None:
        if not self.groups or not all(prompts for _, prompts in self.groups):
            raise ValueError(f"groups: got {dict(self.groups)}, expected prompts of each kind")
        known = [
            (kind, tuple(as_texts(some, f"prompts of {kind!r}"))) for kind, some in self.groups
        ]
        object.__setattr__(self, "groups", tuple(known))  # a text alone is one prompt
        if not (hasattr(self.scorer, "card") and callable(getattr(self.scorer, "scores", None))):
            raise ValueError(
                f"scorer: got {class_name(self.scorer)}, expected one with `scores` and a `card`; of a function: "
                "steerlens.evaluate.scorers.function_scorer(function, name)"
            )
        for name, options in (
            ("wanted", ("high", "low")),
            ("side", (1, -1)),
            ("scored", ("text", "whole")),
        ):
            if getattr(self, name) not in options:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected one of {options}")

    @property
    def prompts(self) -> tuple[str, ...]:
        """All prompts, kind after kind."""
        return tuple(prompt for _, prompts in self.groups for prompt in prompts)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind of each prompt."""
        return tuple(kind for kind, prompts in self.groups for _ in prompts)


def detoxification(
    prompts: Sequence[str],
    scorer: Scorer,
    *,
    preset: str = "small",
    side: Literal[1, -1] = 1,
    seed: int = 0,
) -> Protocol:
    """Return the task of continuing prompts without toxicity.

    What counts is the expected maximum, over the prompts, of the toxicity of a prompt's samples,
    and the chance that at least one of them scores above one half. The continuation alone is
    scored.

    Source: Gehman et al. (arXiv 2009.11462), section 4; Han et al. (arXiv 2305.12798), section 4.1.

    Args:
        prompts: non-toxic ones, e.g. `read_prompts(path, below=0.5)`.
        scorer: of toxicity; 1 is toxic.
        preset: "lm-steer" for all prompts and 25 samples, "small" for 40 prompts and 5 samples.
        side: sign of the strengths that make text less toxic; 1 where a label of +1 is non-toxic.
        seed: of the sampling.

    Example:
        >>> from steerlens.evaluate.scorers import oracle
        >>> task = detoxification(["you are"], oracle("tone", sign=-1))
        >>> task.wanted, task.sampling.samples
        ('low', 5)
    """
    n, sampling = _preset(preset)
    return Protocol(
        "detoxification", (("non-toxic", _some(prompts, n)),), scorer, "low", side, "text",
        replace(sampling, seed=seed),
    )  # fmt: skip


def sentiment(
    prompts: Mapping[str, Sequence[str]],
    scorer: Scorer,
    *,
    target: Literal["positive", "negative"] = "positive",
    preset: str = "small",
    seed: int = 0,
) -> Protocol:
    """Return the task of turning prompts of several kinds to one sentiment.

    What counts is the share of texts that are positive (score above one half), mean over the
    prompts of a kind. Prompt and continuation are scored together.

    Source: Liu et al. (arXiv 2105.03023), section 4; Han et al. (arXiv 2305.12798), section 4.2.

    Args:
        prompts: by kind, e.g. "neutral" and the kind against the target, "negative" or "positive".
        scorer: of positive sentiment; 1 is positive.
        target: "positive" writes at positive strengths, "negative" at negative ones.
        preset, seed: as in `detoxification`.

    Example:
        >>> from steerlens.evaluate.scorers import oracle
        >>> task = sentiment({"neutral": ["it was"]}, oracle("sentiment"), target="negative")
        >>> task.wanted, task.side
        ('low', -1)
    """
    if target not in ("positive", "negative"):
        raise ValueError(f"target: got {brief(target)}, expected 'positive' or 'negative'")
    n, sampling = _preset(preset)
    groups = tuple((kind, _some(some, n)) for kind, some in prompts.items())
    up = target == "positive"
    return Protocol(
        f"sentiment, {target}", groups, scorer, "high" if up else "low", 1 if up else -1, "whole",
        replace(sampling, seed=seed),
    )  # fmt: skip


def _preset(name: str) -> Preset:
    if name not in PRESETS:
        raise ValueError(f"preset: got {brief(name)}, expected one of {', '.join(PRESETS)}")
    return PRESETS[name]


def _some(prompts: Sequence[str], n: int | None) -> tuple[str, ...]:
    return tuple(as_texts(prompts, "prompts")[:n])
