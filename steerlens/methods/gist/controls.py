"""What a distilled prompt keeps of the prompt that it stands for, beside its controls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.logits import kl_and_gradient
from steerlens.maths.stats import ratio_interval
from steerlens.methods.prompt.model_priors import vocabulary_prior
from steerlens.methods.prompt.soft_prompt import SoftPrompt, prompt_edits
from steerlens.methods.training import BATCH_TOKENS
from steerlens.models.hooks import Model, adapter, convention, eval_mode
from steerlens.models.partial_forward import (
    ResidualCache,
    batch_of,
    cache_residuals_of_tokens,
    final_states,
)
from steerlens.models.readout import readout
from steerlens.models.tokenization import Encoded, encode, encode_prompts, with_prefix
from steerlens.values.intervention import Edit
from steerlens.values.texts import as_texts


def compression(
    model: Model,
    prompt: str,
    texts: Sequence[str],
    values: Mapping[str, SoftPrompt],
    *,
    seed: int = 0,
) -> pd.DataFrame:
    """Return how much of what a prompt changes some rows of `distil_prompt` change too.

    On any continuations, with controls.

    Args:
        model: of TransformerLens or of Hugging Face.
        prompt: the text that the rows stand for.
        texts: continuations, best written after `prompt` and not used in the fit.
        values: rows by name, of one length.
        seed: of the words of the random control.

    Returns:
        One line per way to prompt: `way`, `rows` (tokens or rows that it takes), `saved` (tokens),
        `kl` (from the prompted
        model, nats per token) with its 95 % interval over texts `low`, `high`, and `gap_closed` = 1
        − KL / KL without a prompt, with `gap_low`, `gap_high`. The ways: "prompted" (the prompt
        itself, 0 but for rounding), "no prompt", "random words" (rows that are the embeddings of
        ordinary tokens), "last tokens" (the prompt cut to as many), then `values`.

    Raises:
        ValueError: no values, values of several lengths, no text with something to predict.

    Example:
        >>> import steerlens as sl
        >>> from steerlens.methods.gist.distill import distil_prompt
        >>> from steerlens.values.training import Training
        >>> model, prompt = sl.load_model("toy-64"), "the film was very bad ."
        >>> found = distil_prompt(model, prompt, n=40, length=2, training=Training(epochs=1), progress=False)
        >>> compression(model, prompt, ["the plot was slow ."], {"two rows": found.value}).way.tolist()
        ['prompted', 'no prompt', 'random words', 'last tokens', 'two rows']
    """
    lengths = {value.prefix for value in values.values()}
    if len(lengths) != 1:
        raise ValueError(
            f"values: got prompts of {sorted(lengths)} rows, expected some, all of one length"
        )
    task = task_of(model, prompt, texts, lengths.pop())
    able = [row for row, aim in enumerate(task.aim) if len(aim)]
    if not able:
        raise ValueError(
            "texts: none has a token to predict behind the prompt; give some continuations"
        )
    words = vocabulary_prior(model).sample(next(iter(values.values())).prefix, seed)
    return against_controls(task, tokens_of(model, prompt), able, values, words, seed)


@dataclass(frozen=True, eq=False)
class Task:
    """Continuations of a prompt as tokens, and the final hidden states of the prompted model that
    predict them.

    Without begin-of-text the first token of a continuation has nothing before it where there is no
    prompt, so it is only read, behind whatever there is.
    """

    model: Model
    prompted: ResidualCache
    begin: list[int]
    continued: list[list[int]]
    aim: tuple[Float[Tensor, "_ d"], ...]

    def behind(self, tokens: Sequence[int] = (), *, fillers: int = 0) -> ResidualCache:
        """Return the same continuations behind other tokens, or behind fillers for rows."""
        ids = [[*self.begin, *tokens, *rest] for rest in self.continued]
        other = with_prefix(
            Encoded(ids, [len(tokens) + 1] * len(ids), 0), fillers, adapter(self.model).tokenizer
        )
        return replace(
            self.prompted, ids=tuple(map(tuple, other.ids)), prompt=torch.tensor(other.prompt)
        )

    def both(
        self, kept: ResidualCache, rows: Sequence[int], edits: Sequence[Edit]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """Return the final hidden states of some texts under edits, and what they should be."""
        c = final_states(self.model, kept, batch_of(kept, rows), edits)
        return c, torch.cat([self.aim[row] for row in rows]).to(c)

    def kl(
        self, kept: ResidualCache, rows: Sequence[int], edits: Sequence[Edit] = ()
    ) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Return each text's summed KL from the prompted model, and its positions, for some
        texts."""
        found: dict[int, float] = {}
        with eval_mode(self.model):
            for some in kept.batches(rows, BATCH_TOKENS):
                c, aim = self.both(kept, some, edits)
                kl = (
                    kl_and_gradient(kept.readout.head, c, aim, torch.zeros(len(c)).to(c))[0]
                    .double()
                    .cpu()
                )
                sums = [
                    float(part.sum()) for part in kl.split([len(self.aim[row]) for row in some])
                ]
                found |= dict(zip(some, sums, strict=True))
        return np.array([found[row] for row in rows]), np.array(
            [float(len(self.aim[row])) for row in rows]
        )


def task_of(model: Model, prompt: str, texts: Sequence[str], length: int) -> Task:
    """Return the texts as a prompt's rows are distilled on them: encoded behind it, with what the
    model is to say there."""
    texts = as_texts(texts)
    how = convention(model, readout(model))
    # rows, begin-of-text and a continuation have room wherever the prompt and it have
    how = how._replace(n_ctx=how.n_ctx - length - 1)
    encoded = encode(adapter(model).tokenizer, texts, how, end=True, prompts=[prompt] * len(texts))
    begin = [adapter(model).tokenizer.bos_token_id] if how.bos else []
    first = [read + (not begin) for read in encoded.prompt]
    kept = cache_residuals_of_tokens(
        model, encoded._replace(prompt=first), torch.zeros(len(texts)), -1
    )
    aim = [torch.empty(0, kept.readout.d_model)] * len(texts)
    with eval_mode(model):
        for rows in kept.batches(
            [row for row, ids in enumerate(kept.ids) if len(ids) > first[row]]
        ):
            batch = batch_of(kept, rows)
            c = final_states(model, kept, batch, ()).cpu()
            for row, part in zip(rows, c.split(batch.real.sum(1).tolist()), strict=True):
                aim[row] = part
    continued = [ids[read:] for ids, read in zip(encoded.ids, encoded.prompt, strict=True)]
    return Task(model, kept, begin, continued, tuple(aim))


def against_controls(
    task: Task,
    prompt: Sequence[int],
    rows: Sequence[int],
    values: Mapping[str, SoftPrompt],
    words: Float[Tensor, "length d"],
    seed: int,
) -> pd.DataFrame:
    """Return the lines of `compression`, on some of the texts; `words` are the random ones."""
    length, words = len(words), words[None].to(task.prompted.readout.W_U.device)
    rowed = task.behind(fillers=length)
    found = {
        "prompted": (len(prompt), task.kl(task.prompted, rows)),
        "no prompt": (0, task.kl(task.behind(), rows)),
        "random words": (
            length,
            task.kl(rowed, rows, prompt_edits(words, torch.zeros_like(words), "soft", (), 0.0)),
        ),
        "last tokens": (length, task.kl(task.behind(prompt[-length:]), rows)),
    } | {name: (length, task.kl(rowed, rows, value.edits(0.0))) for name, value in values.items()}
    without = found["no prompt"][1][0]
    lines = []
    for way, (used, (sums, n)) in found.items():
        kl, low, high = ratio_interval(sums, n, seed=seed)
        gap, most, least = (1 - share for share in ratio_interval(sums, without, seed=seed))
        lines.append((way, used, len(prompt) - used, kl, low, high, gap, least, most))
    columns = ["way", "rows", "saved", "kl", "low", "high", "gap_closed", "gap_low", "gap_high"]
    return pd.DataFrame(lines, columns=columns)


def tokens_of(model: Model, prompt: str) -> list[int]:
    """Return the tokens of a prompt without begin-of-text."""
    how = convention(model, readout(model))
    found = encode_prompts(adapter(model).tokenizer, [prompt], how._replace(bos=False))[0]
    if not found:
        raise ValueError(f"prompt: {prompt!r} holds no token, expected a text to stand for")
    return found
