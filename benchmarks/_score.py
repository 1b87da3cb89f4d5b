"""Scoring texts at many strengths beside scoring them once."""

from collections.abc import Iterator

import torch
from _measure import Line, alternate, medians, ratio
from _models import GPT2_SMALL, random_models, random_texts
from _recipe import token_ids
from _write import ELEVEN

import steerlens as sl
from steerlens.models.tokenization import batch_tokens, batches, pad


def one_pass(model: object, ids: list[list[int]]) -> float:
    """Log-probability of the tokens of texts under the plain model, as anyone would write it."""
    total = 0.0
    with torch.no_grad():
        for batch in batches([len(i) for i in ids], batch_tokens(model.W_U)):
            tokens, mask = pad([ids[row] for row in batch])
            log_p = torch.log_softmax(model(tokens, attention_mask=mask)[:, :-1], -1)
            total += float((log_p.gather(2, tokens[:, 1:, None]).squeeze(2) * mask[:, 1:]).sum())
    return total


def lines(quick: bool) -> Iterator[Line]:
    d, layers, vocab = (64, 2, 2_000) if quick else GPT2_SMALL
    found = random_models(d, layers, vocab)
    data = random_texts(40 if quick else 24, 10, 50, vocab)
    ids = token_ids(found.model, data)
    ways = {
        "11 strengths": lambda: sl.score(
            found.model, data, found.steer, strengths=ELEVEN, end=False
        ),
        "one pass": lambda: one_pass(found.model, ids),
    }
    seconds = alternate(ways, 5 if quick else 3)
    yield Line(
        "score-11", "score at 11 strengths", "11 passes", "1 pass and 11 softmaxes", "≤ 1.5 × one pass",
        f"{found.sizes}, {sum(map(len, ids)):,} tokens",
        (
            ratio("times one pass", seconds["11 strengths"], seconds["one pass"], most=1.5),
            ratio("times faster than 11 passes", [11 * s for s in seconds["one pass"]], seconds["11 strengths"]),
        ),
        medians(seconds),
        note=f"the product (cW) W_U alone adds {vocab / (vocab + 12 * layers * d):.2f} of a pass",
    )  # fmt: skip
