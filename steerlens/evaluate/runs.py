"""Write and judge all texts of a protocol, by several methods, so that an interrupted run goes on."""

import hashlib
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from steerlens.evaluate.measures import continuation_nll
from steerlens.evaluate.protocols import Protocol
from steerlens.evaluate.run_folder import open_folder, read_block, write_block
from steerlens.evaluate.run_settings import Entrant as Entrant
from steerlens.evaluate.run_settings import settings_of, settings_of_entrant
from steerlens.evaluate.scorers.card import ask
from steerlens.evaluate.verbs import own_costs, write
from steerlens.evaluate.writer import check_base
from steerlens.models.hooks import Model, adapter, convention
from steerlens.models.readout import readout
from steerlens.models.tokenization import encode_prompts
from steerlens.values.fit import value_of
from steerlens.values.intervention import Intervention
from steerlens.values.progress import hidden

ROWS = 250
"""Texts per block, about: what an interrupt loses at most."""


def run_protocol(
    model: Model,
    entrants: Sequence[Entrant],
    protocol: Protocol,
    *,
    folder: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Let each entrant continue all prompts, and judge every text.

    With a folder, each entrant and block of prompts is a file there, and the same call goes on
    where an earlier one stopped; one with other settings is refused: another model, judge, prompts
    or sampling, or an entrant that is another under its name. A judge that is a function is told by
    its scores of a few texts. More entrants may join.

    Returns:
        One row per entrant, prompt and sample: `entrant`, `kind` of the prompt, `row` (the
        prompt's index), `prompt`, `sample`, `text`, `score`, `nats` and `tokens` (of the text given
        the prompt, under the protocol's evaluator), `kl` (at each of its tokens, an array; see
        `own_costs`).

    Raises:
        ValueError: an entrant's name that comes twice, a method that lives on another model, a
            prompt that leaves too little of the context, a folder of a run with other settings.

    Example:
        >>> import steerlens as sl
        >>> from steerlens.evaluate.protocols import detoxification
        >>> from steerlens.evaluate.scorers import oracle
        >>> task = detoxification(["you are"], oracle("tone", sign=-1))
        >>> base = Entrant("base", None, 0.0)
        >>> len(run_protocol(sl.load_model("toy-64"), [base], task, progress=False))
        5
    """
    entrants = [entrant._replace(method=value_of(entrant.method)) for entrant in entrants]
    _check(model, entrants, protocol)
    if folder is not None:
        _check_apart([entrant.name for entrant in entrants])
    step = max(1, ROWS // protocol.sampling.samples)
    blocks = [
        range(k, min(k + step, len(protocol.prompts)))
        for k in range(0, len(protocol.prompts), step)
    ]
    run = None if folder is None else open_folder(folder, settings_of(model, protocol), "a run")
    if progress and not hidden(progress):
        tqdm.write(planned(model, len(entrants), protocol), file=sys.stderr)
    found = []
    total = len(entrants) * len(protocol.prompts)
    with tqdm(total=total, unit="prompt", desc="write", disable=hidden(progress)) as bar:
        for entrant in entrants:
            name = entrant.name
            about = settings_of_entrant(entrant)
            kept = run and open_folder(run / slug(name), about, f"texts of {name!r}")
            for k, block in enumerate(blocks):
                table = kept and read_block(kept, k)
                if table is None:
                    table = _written(model, entrant, protocol, block)
                    if kept:
                        write_block(kept, k, table)
                found.append(table)
                bar.update(len(block))
    return pd.concat(found, ignore_index=True)


def planned(model: Model, n_entrants: int, protocol: Protocol) -> str:
    """Return in a line what a run will take, by a trial of a few texts of the model itself.

    Example:
        >>> import steerlens as sl
        >>> from steerlens.evaluate.protocols import detoxification
        >>> from steerlens.evaluate.scorers import oracle
        >>> task = detoxification(["you are"], oracle("tone", sign=-1))
        >>> planned(sl.load_model("toy-64"), 3, task)
        '15 texts of up to 20 tokens by 3 entrants: about ... s at the pace of the model itself'
    """
    texts = len(protocol.prompts) * protocol.sampling.samples
    few = range(min(len(protocol.prompts), max(1, 50 // protocol.sampling.samples)))
    start = time.perf_counter()
    _written(model, Entrant("base", None, 0.0), protocol, few)
    pace = (time.perf_counter() - start) / (len(few) * protocol.sampling.samples)
    seconds = pace * texts * n_entrants
    shown = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
    return (
        f"{texts * n_entrants:,} texts of up to {protocol.sampling.max_new_tokens} tokens by "
        f"{n_entrants} entrants: about {shown} at the pace of the model itself"
    )


def _written(
    model: Model, entrant: Entrant, protocol: Protocol, rows: Sequence[int]
) -> pd.DataFrame:
    prompts = [protocol.prompts[k] for k in rows]
    written = write(
        model, entrant.method, prompts, strength=entrant.strength, sampling=protocol.sampling
    )
    evaluator = model if protocol.evaluator is None else protocol.evaluator
    nll = continuation_nll(evaluator, written.prompt.tolist(), written.text.tolist())
    judged = written.text if protocol.scored == "text" else written.prompt + written.text
    samples = protocol.sampling.samples
    return pd.DataFrame(
        {
            "entrant": entrant.name,
            "kind": np.repeat([protocol.kinds[k] for k in rows], samples),
            "row": np.repeat(list(rows), samples),
            "prompt": written.prompt,
            "sample": written["sample"],
            "text": written.text,
            "score": ask(protocol.scorer, judged.tolist()),
            "nats": nll.nats,
            "tokens": nll.tokens,
            "kl": own_costs(model, entrant.method, written, strength=entrant.strength),
        }
    )


def _check(model: Model, entrants: Sequence[Entrant], protocol: Protocol) -> None:
    names = [entrant.name for entrant in entrants]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not entrants:
        got = f"{twice[0]!r} twice" if twice else "none"
        raise ValueError(f"entrants: got {got}, expected at least one, each of another name")
    prefix = 0
    for entrant in entrants:
        if entrant.method is not None:
            check_base(entrant.method, model)
        if isinstance(entrant.method, Intervention):
            prefix = max(prefix, entrant.method.prefix)
    _check_room(model, protocol, prefix, "the context")
    if protocol.evaluator is not None:
        _check_room(protocol.evaluator, protocol, 0, "the evaluator's context")


def _check_room(model: Model, protocol: Protocol, prefix: int, called: str) -> None:
    """Raise where a prompt and its continuation are longer than a model reads."""
    how = convention(model, readout(model))
    room = how.n_ctx - prefix - protocol.sampling.max_new_tokens
    ids = encode_prompts(adapter(model).tokenizer, protocol.prompts, how)
    for prompt, tokens in zip(protocol.prompts, ids, strict=True):
        if len(tokens) > room:
            raise ValueError(
                f"prompts: {prompt[:40]!r}… has {len(tokens)} tokens; with "
                f"{protocol.sampling.max_new_tokens} new ones it does not fit {called} of "
                f"{how.n_ctx}; shorten it or leave it out"
            )


def _check_apart(names: Sequence[str]) -> None:
    """Raise where the texts of two names would be kept in one folder."""
    first: dict[str, str] = {}
    for name in names:
        other = first.setdefault(slug(name), name)
        if other != name:
            raise ValueError(
                f"entrants: {other!r} and {name!r} would be kept in one folder, {slug(name)!r}; choose "
                "names that differ by more than case, spaces and points"
            )


PLAIN = re.compile(r"[A-Za-z0-9]+(?:[ ,.()_-]+[A-Za-z0-9]+)*\)?")
"""Names that differ by more than what stands between their words once they are files' names."""


def slug(name: str) -> str:
    """Return a name as a file may have it; signs and letters that no file's name has are told by a
    digest.

    Example:
        >>> slug("LoReFT, rank 4 (KL 0.05)")
        'loreft-rank-4-kl-0-05'
        >>> slug("joy+"), slug("joy-")
        ('joy-f9c7a9', 'joy-e02a86')
    """
    words = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if PLAIN.fullmatch(name):
        return words
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=3).hexdigest()
    return f"{words}-{digest}".strip("-")
