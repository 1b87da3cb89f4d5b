"""What a fit costs beside the paper's recipe and beside one forward pass, in one process.

    python benchmarks/fit.py                                          # toy-128, sentiment
    python benchmarks/fit.py --model FOLDER --train FILE --test FILE  # any model and labelled texts

The recipe (Han et al., appendix D) is Adam with step 1e-2 on `W` and a background, 1,000 steps of 32 texts, through the
frozen model each step, in units of 1e-3. All are judged on the same test texts, which neither has seen.
"""

import argparse
import time

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

import steerlens as sl
from steerlens.models.sites import convention
from steerlens.models.tokens import encode, pad
from steerlens.values.losses import measure

UNIT = 1e-3


def recipe(model: object, data: sl.Labelled, steps: int, seed: int) -> tuple[Tensor, Tensor]:
    """`W` and background after the paper's training, through the model at every step."""
    on = sl.readout(model)
    ids = encode(model.tokenizer, list(data.texts), convention(model, on), end=True).ids
    labels = torch.tensor(data.labels)
    d = on.d_model
    W, D = (torch.zeros(d, d, requires_grad=True) for _ in range(2))
    optimiser = torch.optim.Adam([W, D], lr=1e-2)
    random = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(len(ids), (32,), generator=random).tolist()
        tokens, mask = pad([ids[row] for row in rows])
        y = labels[rows][:, None, None]
        model.reset_hooks()
        edit = lambda c, hook, y=y: c + UNIT * (y * (c @ W) + c @ D)  # noqa: E731
        with model.hooks(fwd_hooks=[("unembed.hook_in", edit)]):
            logits = model(tokens, attention_mask=mask)
        real = mask[:, 1:].bool()
        loss = torch.nn.functional.cross_entropy(logits[:, :-1][real], tokens[:, 1:][real])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return UNIT * W.detach(), UNIT * D.detach()


def forward_pass(model: object, data: sl.Labelled) -> None:
    """One plain pass with logits over the texts, batched by length as `collect` does."""
    from steerlens.models.tokens import batches

    ids = encode(model.tokenizer, list(data.texts), convention(model, sl.readout(model)), end=True).ids
    with torch.no_grad():
        for batch in batches([len(i) for i in ids], 8192):
            tokens, mask = pad([ids[row] for row in batch])
            model(tokens, attention_mask=mask)


def timed(action: object) -> tuple[float, object]:
    start = time.perf_counter()
    result = action()
    return time.perf_counter() - start, result


def contrast_interval(
    states: sl.States, W: Float[Tensor, "d d"], D: Float[Tensor, "d d"]
) -> tuple[float, float, float]:
    """Held-out NLL, its gain over the background, and the contrast between the signs."""
    on = states.readout
    losses = measure(states, sl.Steer(W, on), sl.Steer(D, on)).all
    return losses.steered, losses.background - losses.steered, losses.contrast


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="toy-128")
    parser.add_argument("--train")
    parser.add_argument("--test")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = sl.load_model(arguments.model)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    train = sl.read_labelled(arguments.train) if arguments.train else sl.toy.corpus("sentiment", n=4000, seed=0)
    test = sl.read_labelled(arguments.test) if arguments.test else sl.toy.corpus("sentiment", n=1000, seed=1)
    held = sl.collect(model, test, progress=False)
    rows = []
    for seed in range(arguments.seeds):  # A B C A B C: drifts of the machine fall on all alike
        seconds, _ = timed(lambda: forward_pass(model, train))
        rows.append(
            ("one forward pass with logits", seconds, *contrast_interval(held, *torch.zeros(2, *[held.d_model] * 2)))
        )
        collecting, states = timed(lambda: sl.collect(model, train, progress=False))
        rows.append(("collect", collecting, np.nan, np.nan, np.nan))
        seconds, fit = timed(lambda states=states, seed=seed: sl.fit_steer(states, seed=seed))
        rows.append(("collect + fit", collecting + seconds, *contrast_interval(held, fit.value.W, fit.background.W)))
        seconds, (W, D) = timed(lambda seed=seed: recipe(model, train, arguments.steps, seed))
        rows.append(("the paper's recipe", seconds, *contrast_interval(held, W, D)))
    columns = ["what", "seconds", "test NLL", "gain over background", "contrast"]
    table = pd.DataFrame(rows, columns=columns).groupby("what", sort=False).agg(["mean", "std"])
    unit = table[("seconds", "mean")].iloc[0]
    table[("seconds", "ratio")] = table[("seconds", "mean")] / unit
    print(
        f"{arguments.model}, {len(train)} texts, {torch.get_num_threads()} threads, {arguments.seeds} seeds; ratio to one pass"
    )
    print(table.sort_index(axis=1).round(4).to_string())


if __name__ == "__main__":
    main()
