"""Distil a prompt into a few learned rows: the model behind them writes as behind the whole
prompt."""

import time
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from steerlens.maths.brief import brief
from steerlens.maths.logits import kl_and_gradient
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.methods.gist.controls import against_controls, compression, task_of, tokens_of
from steerlens.methods.gist.mask import Distilled
from steerlens.methods.prompt.model_priors import start_rows, vocabulary_prior
from steerlens.methods.prompt.priors import FixedRows, Prior
from steerlens.methods.prompt.soft_prompt import (
    Kind,
    SoftPrompt,
    prompt_edits,
    prompt_layers,
    prompt_sites,
)
from steerlens.methods.training import CHUNK, Schedule, split, training_loop, warn_untrained
from steerlens.models.embeddings import embeddings
from steerlens.models.generate import generate
from steerlens.models.hooks import Model, adapter
from steerlens.models.readout import readout
from steerlens.values.intervention import Edit
from steerlens.values.training import USUAL, Training, lasting

__all__ = ["compression", "distil_prompt"]


@torch_defaults()
def distil_prompt(
    model: Model,
    prompt: str,
    texts: Sequence[str] | None = None,
    *,
    length: int = 4,
    kind: Kind = "soft",
    layers: Sequence[int] | None = None,
    prior: Prior | None = None,
    n: int = 400,
    max_new_tokens: int = 30,
    epochs: int | None = None,
    training: Training = USUAL,
    seed: int = 0,
    name: str = "gist",
    progress: bool = True,
) -> Distilled:
    """Fit the few rows before the input behind which a model predicts as it does behind a whole
    prompt.

        minimise  mean over positions of  KL( p(· | prompt, text so far) ‖ p(· | rows, text so far) )      nats per token

    The utility of gist tokens (Mu, Li and Goodman, arXiv 2304.08467) for a frozen model: theirs is
    trained to put any instruction into its gist, here each prompt is distilled by itself. What the
    prompted model predicts is computed once, as final hidden states. AdamW; the rows with the best
    held-out KL are kept.

    Args:
        model: of TransformerLens or of Hugging Face; unchanged afterwards.
        prompt: the text to stand for.
        texts: continuations to agree on; a part of them is held out. None: `n` of them, of at most
            `max_new_tokens`, written by the prompted model.
        length: rows; at most the prompt's tokens.
        kind: "soft", "deep" or "kv"; see `SoftPrompt`.
        layers: for "deep" (default: the last third) and "kv" (default: all).
        prior: where the token embeddings of the rows start; None: means of the prompt's own, in so
            many parts. What deeper sites hold at the start is what the model makes of these rows.
        epochs: most passes over the texts; the same as `Training(epochs=)`.
        training: learning rate, epochs, batch size; see `Training`. The `lr` is in units of the
            typical size of the model's own states at each site; None: 0.3.
        seed, name, progress: as in `fit_prompt`.

    Returns:
        `Distilled`; its table holds the rows against the controls of `compression`, on the held-out
        texts.

    Raises:
        ValueError: an argument out of range, fewer than four texts with something to predict.

    Example:
        >>> import steerlens as sl
        >>> model, training = sl.load_model("toy-64"), Training(epochs=1)
        >>> found = distil_prompt(model, "the film was very bad .", n=40, length=2, training=training, progress=False)
        >>> found.value.prefix
        2
    """
    started = time.perf_counter()
    schedule = Schedule(lasting(training, epochs), 0.3, seed, progress, "distil_prompt")
    picked = prompt_layers(kind, layers, adapter(model).n_layers)
    on = readout(model)
    tokens = tokens_of(model, prompt)
    if not 1 <= length <= len(tokens):
        raise ValueError(
            f"length: got {length}, expected 1 … {len(tokens)}, the tokens of the prompt"
        )
    if texts is None:
        if n < 4:
            raise ValueError(
                f"n: got {n}, expected at least 4 (some hundreds for rows worth having)"
            )
        written = generate(
            model, [prompt], samples=n, seed=seed, max_new_tokens=max_new_tokens
        ).text
        texts = [text for text in written if text.strip()]
        if not texts:
            raise ValueError(
                f"prompt: the model ends its text right after {brief(prompt)}, in all of {n} samples; "
                "give continuations: texts="
            )
    task = task_of(model, prompt, texts, length)
    parts = split(model, task.behind(fillers=length), None, seed)
    own = _own(embeddings(model)[tokens], length) if prior is None else prior
    start, typical = start_rows(model, own, length, prompt_sites(kind, picked), seed)
    way = nn.Parameter(torch.zeros_like(start))

    def edits(rows: Tensor) -> tuple[Edit, ...]:
        return prompt_edits(rows, torch.zeros_like(rows), kind, picked, 0.0)

    def pull(rows: Sequence[int], _: float) -> None:
        c, aim = task.both(parts.kept, rows, edits(start + typical * way))
        found, gradient = c.detach(), torch.empty_like(c)
        weight = torch.full((len(c),), 1 / len(c), device=c.device)
        for first in range(0, len(c), CHUNK):
            part = slice(first, first + CHUNK)
            gradient[part] = kl_and_gradient(on.head, found[part], aim[part], weight[part])[1]
        c.backward(gradient)

    def judge() -> dict[str, float]:
        kl, n = task.kl(parts.kept, parts.heldout, edits(start + typical * way))
        return {"heldout_kl": float(kl.sum() / n.sum())}

    found = training_loop(model, parts, [(way, 1.0)], pull, judge, schedule)
    warn_untrained(found, parts, schedule.name)
    rows = (start + typical * way).detach().clone()
    value = SoftPrompt(rows, torch.zeros_like(rows), kind, picked, on, name)
    first = SoftPrompt(start, torch.zeros_like(start), kind, picked, on, "untrained rows")
    settings = {
        "kind": kind, "length": length, "layers": list(picked), "prior": "own tokens" if prior is None else prior.name,
        "n_parameters": rows.numel(),
    } | found.settings  # fmt: skip
    random = vocabulary_prior(model).sample(length, seed)
    table = against_controls(
        task, tokens, parts.heldout, {first.name: first, "distilled": value}, random, seed
    )
    return Distilled(
        value, prompt, table, found.trials, len(texts), task.prompted.n_truncated, time.perf_counter() - started, seed, settings
    )  # fmt: skip


def _own(embedded: Float[Tensor, "m d"], length: int) -> FixedRows:
    """Return the means of so many parts of a prompt, in order."""
    return FixedRows(
        torch.stack([part.mean(0) for part in embedded.tensor_split(length)]), "own tokens"
    )
