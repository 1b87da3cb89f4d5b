"""Score given texts token by token, with the logits that some steps give: what `writing` is for
texts that are not there yet."""

from collections.abc import Iterable, Sequence

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.numbers import as_floats
from steerlens.models.adapters import Model
from steerlens.models.decoding import habits
from steerlens.models.generate import edited_steps
from steerlens.models.hooks import adapter, convention, eval_mode
from steerlens.models.readout import readout
from steerlens.models.score import score
from steerlens.models.tokenization import encode, pad
from steerlens.models.writing import Steps, step_batches
from steerlens.values.labelled import Labelled
from steerlens.values.texts import as_texts


def score_by(
    model: Model,
    texts: Labelled | Iterable[str],
    steps: Steps,
    strengths: float | Iterable[float],
    *,
    end: bool = True,
    reserved: int = 0,
) -> pd.DataFrame:
    """Score texts as `score` does, with the logits that some steps give, and what these cost.

    A text's tokens are handed to the steps one by one, behind its prompt or begin-of-text, as if
    they had been drawn: for methods whose next logits depend on what they did before.

    Args:
        steps: see `writing.generate_by`.
        reserved: tokens of the context that texts leave free.

    Returns:
        What `score` does and `kl`, KL(model ‖ steps) of the distribution that each token comes
        from, in nats.

    Example:
        >>> import steerlens as sl
        >>> model, texts = sl.load_model("toy-64"), ["the film was good ."]
        >>> plain = score_by(model, texts, edited_steps(model, None), 0.0)
        >>> float(plain.kl.abs().max()), round(float(plain.log_prob.sum() - score(model, texts).log_prob.sum()), 3)
        (0.0, 0.0)
    """
    data = texts if isinstance(texts, Labelled) else as_texts(texts)
    by, table = as_floats(strengths, "strengths"), score(model, data, end=end)
    how = convention(model, readout(model))
    content, prompts = (data.texts, data.prompts) if isinstance(data, Labelled) else (data, ())
    encoded = encode(
        adapter(model).tokenizer, list(content), how._replace(n_ctx=how.n_ctx - reserved),
        end=end, prompts=prompts,
    )  # fmt: skip
    n = [encoded.predicted(row) for row in range(len(encoded.ids))]
    table = table[table.position < table.text.map(dict(enumerate(n)))].reset_index(drop=True)
    rows = sorted((row for row in range(len(n)) if n[row]), key=lambda row: n[row])
    starts = [len(encoded.ids[row]) - n[row] for row in rows]
    batches = step_batches(starts, max(n), how.n_ctx, pads=habits(model).pads)
    parts = []
    for s in by:
        found = [torch.zeros(2, k, dtype=torch.float64) for k in n]
        for batch in batches:
            some = [rows[place] for place in batch]
            follow = [
                (encoded.ids[row], starts[place]) for row, place in zip(some, batch, strict=True)
            ]
            for row, numbers in zip(some, _follow(model, steps, follow, s), strict=True):
                found[row] = numbers
        log_prob, kl = torch.cat(found, 1).numpy()
        parts.append(table.assign(strength=float(s), log_prob=log_prob, kl=kl))
    return pd.concat(parts, ignore_index=True)


def _follow(
    model: Model, steps: Steps, rows: Sequence[tuple[list[int], int]], strength: float
) -> list[Float[Tensor, "2 n"]]:
    """Return log-probability and KL of the tokens of each text from where it starts."""
    device = readout(model).W_U.device
    prompts = [ids[:start] for ids, start in rows]
    n = [len(ids) - start for ids, start in rows]
    found = torch.zeros(2, len(rows), max(n), dtype=torch.float64)
    at = torch.full((len(rows),), strength)
    with eval_mode(model):
        tokens, mask = (t.to(device) for t in pad(prompts, left=True))
        plain, step = edited_steps(model, None)(prompts, at), steps(prompts, at)
        for k in range(max(n)):
            log_p = plain(tokens, mask).float().log_softmax(-1)
            log_q = step(tokens, mask).float().log_softmax(-1)
            # a text that is over goes on with its last token, which nobody asks about
            told = [ids[min(start + k, len(ids) - 1)] for ids, start in rows]
            tokens = torch.tensor(told, device=device)[:, None]
            found[0, :, k] = log_q.gather(1, tokens)[:, 0].double().cpu()
            kl = torch.where(log_p.isfinite(), log_p.exp() * (log_p - log_q), 0.0)
            found[1, :, k] = kl.sum(1).double().cpu()
            mask = torch.cat([mask, torch.ones_like(tokens)], dim=1)
    return [found[:, row, :k] for row, k in enumerate(n)]
