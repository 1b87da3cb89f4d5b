"""Collecting states beside the layers alone, and beside a plain pass with logits."""

from collections.abc import Iterator

from _measure import Line, alternate, medians, ratio
from _models import GPT2_SMALL, random_models, random_texts, toy_case
from _recipe import forward_pass, token_ids

import steerlens as sl


def lines(quick: bool) -> Iterator[Line]:
    if quick:
        toy = toy_case("toy-64", 600)
        yield collecting("collect", toy.model, toy.train, toy.name, rounds=9)
        return
    found = random_models(*GPT2_SMALL)
    yield collecting(
        "collect", found.model, random_texts(160, 10, 50, GPT2_SMALL[2]), found.sizes, rounds=4
    )
    toy = toy_case(n=2000)
    yield collecting("collect-toy", toy.model, toy.train, toy.name, rounds=9)


def collecting(key: str, model: object, data: sl.Labelled, sizes: str, *, rounds: int) -> Line:
    ids = token_ids(model, data)

    def plain(logits: bool) -> None:
        """Texts to tokens is the tokenizer's work in every way; what it gives here is what `ids`
        holds already."""
        model.tokenizer(list(data.texts), add_special_tokens=False)
        forward_pass(model, ids, logits=logits)

    ways = {
        "collect": lambda: sl.collect(model, data, progress=False),
        "layers alone": lambda: plain(logits=False),
    }
    sl.collect(model, data.first(4), progress=False)  # warms up
    seconds, tokens = alternate(ways, rounds, warm=0), sum(map(len, ids))
    seconds |= alternate(
        {"pass with logits": lambda: plain(logits=True)}, 1, warm=0
    )  # nothing is asked of it
    return Line(
        key, "collect", "plain forward with logits", "forward without the unembedding", "≥ 0.95 of the limit",
        f"{sizes}, {tokens:,} tokens without padding",
        (
            ratio("of the limit", seconds["layers alone"], seconds["collect"], least=0.95),
            ratio("times faster than with logits", rounds * seconds["pass with logits"], seconds["collect"]),
            ratio("tokens per second", [tokens] * rounds, seconds["collect"]),
        ),
        medians(seconds), note="each way tokenises the texts; collect also checks the read-out, once, and keeps the states",
    )  # fmt: skip
