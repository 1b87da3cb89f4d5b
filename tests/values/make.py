"""Small random read-outs, metrics and states that the tests of values and fits share."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from steerlens.methods.reft.formulas import FORMS
from steerlens.methods.reft.reft import Reft
from steerlens.values.metric import Metric
from steerlens.values.readout import Readout
from steerlens.values.states import Shard, States
from steerlens.values.steer import Steer

D, V = 6, 17


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_readout(
    seed: int = 0, *, d: int = D, vocab: int = V, softcap: float | None = None
) -> Readout:
    W_U, b_U = random(d, vocab, seed=seed), random(vocab, seed=seed + 1)
    return Readout(
        W_U,
        b_U,
        tuple(f"w{i}" for i in range(vocab)),
        frozenset({0}),
        softcap=softcap,
        model_id=f"m{seed}",
    )


def make_steer(seed: int = 0, on: Readout | None = None, name: str = "joy") -> Steer:
    on = on or make_readout()
    return Steer(random(on.d_model, on.d_model, seed=100 + seed), on, name)


def orthonormal_rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(random(*shape, seed=seed).mT).Q.mT.contiguous()


def make_reft(
    variant: Any = "loreft",
    on: Readout | None = None,
    *,
    layers: tuple[int, ...] = (0,),
    rank: int = 2,
    positions: str = "all",
    tied: bool = True,
    activation: Any = None,
    seed: int = 0,
    name: str = "edit",
) -> Reft:
    """A seeded edit of any variant; r1 has rank 1, the others as asked."""
    on, form = on or make_readout(), FORMS[variant]
    n, rank = len(layers) * (1 if tied else 2), 1 if variant == "r1" else rank
    shape = (n, rank, on.d_model)
    R = (
        orthonormal_rows(*shape, seed=seed)
        if form.orthonormal
        else random(*shape, seed=seed) / on.d_model**0.5
    )
    A = random(*shape, seed=seed + 1) / on.d_model**0.5 if form.reads else None
    return Reft(
        R, A, 2 * random(n, rank, seed=seed + 2), variant, layers, positions, on, activation, name
    )


def picked(positions: str, prompt: int, length: int) -> tuple[list[int], list[int]]:
    """Which of a text's tokens are the beginning and which the end, token by token."""
    parts = ["prompt", "new"] if positions == "all" else positions.split("+")
    first, last = (
        sum(int(p[1:]) for p in parts if p[0] == end and p[1:].isdigit()) for end in "fl"
    )
    if (
        first and last
    ):  # the halves of a prompt; the middle token of an odd one belongs to the second
        first, last = min(first, prompt // 2), min(last, prompt - prompt // 2)
    beginning, end = [], []
    for i in range(length):
        if i < prompt and ("prompt" in parts or i < first):
            beginning.append(i)
        elif prompt - last <= i < prompt or (i >= prompt and "new" in parts):
            end.append(i)
    return beginning, end


def exact_metric(on: Readout, c: Tensor, damping: float = 0.0) -> Metric:
    """The natural metric of some contexts, position by position, float64."""
    e = on.scale * on.W_U.double().mT
    p = torch.softmax(c.double() @ on.W_U.double() + on.b_U.double(), 1)
    S = torch.zeros(on.d_model, on.d_model).double()
    for row in p:
        centred = e - row @ e
        S += (centred.mT * row) @ centred / len(p)
    C = c.double().mT @ c.double() / len(c)
    return Metric(C, (S + S.mT) / 2, damping)


def make_states(
    n_texts: int = 30,
    *,
    on: Readout | None = None,
    planted: Tensor | None = None,
    background: Tensor | None = None,
    length: int = 8,
    n_shards: int = 1,
    seed: int = 0,
) -> States:
    """Texts of random contexts, labels -1, 0, 1 in turn, next tokens drawn from
    `softmax((c + y·cW + cD) W_U + b_U)`."""
    on = on or make_readout()
    r = torch.Generator().manual_seed(seed)
    labels = (torch.arange(n_texts) % 3 - 1).float()
    lengths = torch.randint(1, 2 * length, (n_texts,), generator=r)
    text = torch.repeat_interleave(torch.arange(n_texts), lengths)
    c = torch.randn(len(text), on.d_model, generator=r)
    moved = c
    if planted is not None:
        moved = moved + labels[text][:, None] * (c @ planted)
    if background is not None:
        moved = moved + c @ background
    following = torch.multinomial(torch.softmax(on.logits(moved), 1), 1, generator=r).squeeze(1)
    parts = [(text % n_shards == k).nonzero().squeeze(1) for k in range(n_shards)]
    shards = tuple(Shard(c[rows], following[rows].int(), text[rows].int()) for rows in parts)
    return States(on, shards, labels, lengths, torch.ones(n_texts, dtype=torch.bool))


def on_disk(states: States, folder: Path) -> States:
    """The same states, their shards in files."""
    paths = []
    for number, shard in enumerate(states.shards):
        assert isinstance(shard, Shard)
        save_file(shard._asdict(), folder / f"{number}.safetensors")
        paths.append(folder / f"{number}.safetensors")
    return States(states.readout, tuple(paths), states.labels, states.lengths, states.keep)


def contents(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Metadata and tensors of a file, as they are."""
    with safe_open(str(path), framework="pt") as file:
        names = file.keys()  # a file is no dict: it cannot be iterated
        return json.loads(file.metadata()["steerlens"]), {n: file.get_tensor(n) for n in names}


def rewrite(path: Path, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """A file with these in it, whoever may have written it."""
    save_file(tensors, path, metadata={"steerlens": json.dumps(meta)})


def forget(path: Path, key: str) -> None:
    """The file again, without one part of its metadata."""
    meta, tensors = contents(path)
    del meta[key]
    rewrite(path, tensors, meta)
