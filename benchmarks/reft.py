"""Seconds a training step of ReFT beside a loop that runs every layer each step, by the depth of
the edit, in one process.

    python benchmarks/reft.py            # a random GPT-2 of 12 layers, d 256, vocabulary 8,192, and toy-128

Reference: the model with a hook, logits and loss by autograd, everything anew each step. Ours: the
layers below the edit were run once and their states kept, the unembedding's gradient is made by
hand. Both take the same batches and end at the same gradients, which is checked. Steps alternate;
medians. The limit is what a pass of the layers above the edit costs, forward and backward, without
anything else.
"""

import os
import time

for pool in ("OMP", "MKL"):
    os.environ.setdefault(f"{pool}_NUM_THREADS", "2")

import numpy as np
import pandas as pd
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import steerlens as sl
from steerlens.methods.reft.parameters import Learned, Shape
from steerlens.methods.training import backward
from steerlens.models.hooks import apply_edits, eval_mode
from steerlens.models.partial_forward import batch_of, cache_residuals_of_tokens, final_states
from steerlens.models.tokenization import Encoded
from steerlens.values.steer import zero_steer

BATCH, LENGTH, STEPS = 32, 24, 5


def random_gpt2() -> object:
    from transformer_lens.model_bridge import TransformerBridge

    torch.manual_seed(0)
    config = GPT2Config(n_layer=12, n_embd=256, n_head=8, vocab_size=8192, n_positions=128)
    config.architectures = ["GPT2LMHeadModel"]
    lm = GPT2LMHeadModel(config).eval()
    toy = sl.load_model("toy-64").tokenizer
    return TransformerBridge.boot_transformers(
        "random", hf_model=lm, tokenizer=toy, device="cpu", dtype=torch.float32
    )


def compare(name: str, model: object, layer: int) -> dict:
    random = torch.Generator().manual_seed(layer)
    ids = torch.randint(2, sl.readout(model).n_tokens, (BATCH, LENGTH), generator=random).tolist()
    labels = torch.tensor([1.0, -1.0] * (BATCH // 2))
    kept = cache_residuals_of_tokens(model, Encoded(ids, [1] * BATCH, 0), labels, layer)
    batch, none = batch_of(kept, range(BATCH)), zero_steer(kept.readout)
    weight = torch.full((len(batch.targets),), 1 / len(batch.targets))
    learned = Learned(
        Shape("loreft", 4, (layer,), "all", True, None, model.cfg.d_model),
        torch.zeros(1, model.cfg.d_model),
        0,
    )

    def ours() -> None:
        c = final_states(model, kept, batch, learned.edits(batch.labels, None, []))
        backward(kept, c, batch.targets, weight, none)

    def naive() -> None:
        with apply_edits(model, learned.edits(batch.labels, None, []), lambda _, t: batch.places):
            logits = model(batch.tokens, attention_mask=batch.mask)
        torch.nn.functional.cross_entropy(logits[:, :-1][batch.real], batch.targets).backward()

    seconds, gradients = {"ours": [], "naive": []}, {}
    with eval_mode(model, gradients=True):
        for step in range(STEPS + 1):
            for way, run in (("ours", ours), ("naive", naive)):
                for p in learned.parameters():
                    p.grad = None
                begun = time.perf_counter()
                run()
                taken = time.perf_counter() - begun
                gradients[way] = torch.cat([p.grad.flatten() for p in learned.parameters()])
                if step:  # the first warms up
                    seconds[way].append(taken)
    error = float((gradients["ours"] - gradients["naive"]).norm() / gradients["naive"].norm())
    assert error < 1e-3, error
    fast, slow = (np.array(seconds[way]) for way in ("ours", "naive"))
    return {
        "model": name, "layer": layer, "naive (ms)": 1e3 * np.median(slow), "ours (ms)": 1e3 * np.median(fast),
        "times faster": np.median(slow / fast), "lowest": (slow / fast).min(), "highest": (slow / fast).max(),
        "gradients differ by": error,
    }  # fmt: skip


def main() -> None:
    rows = [
        compare("random, 12 layers", model, layer) for model in [random_gpt2()] for layer in (0, 11)
    ]
    rows += [
        compare("toy-128, 3 layers", model, layer)
        for model in [sl.load_model("toy-128")]
        for layer in (1,)
    ]
    print(
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, {BATCH} texts of {LENGTH} tokens, rank 4, all positions"
    )
    print(pd.DataFrame(rows).to_string(index=False, float_format=lambda x: f"{x:.3g}"))


if __name__ == "__main__":
    main()
