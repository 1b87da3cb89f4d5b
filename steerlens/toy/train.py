"""Train the shipped language models: `python -m steerlens.toy.train toy-128` (or `--measure` to
measure what is shipped).

The grammar knows its exact next-token distribution q at every position, so the loss is the
cross-entropy to q itself, mean Σ_v -q(v) log p(v): the same minimum as on sampled tokens without
their noise. Texts are drawn afresh for every step. A tokenizer that splits words gets q on the
first piece of each word and sampled pieces elsewhere; `toy-tasks` gets sampled tokens everywhere.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.toy.batches import N_POSITIONS, Batch, build_pieces, spelled_length, training_batches
from steerlens.toy.hmm import Grammar
from steerlens.toy.shipped import SHIPPED, TASK_MODEL, weights_folder
from steerlens.toy.tasks import EXTRA_WORDS, measure_tasks, task_batches
from steerlens.toy.tokens import Tokenizer, piece_tokenizer, word_tokenizer
from steerlens.toy.world import default_grammar

HELD_OUT_SEED = 1_000_003


@dataclass(frozen=True)
class Recipe:
    """One model and how it is trained; `tokens` counts padded positions per step."""

    d: int
    layers: int
    heads: int
    steps: int
    rate: float
    tokens: int = 2048
    llama_vocab: int | None = None


RECIPES = {
    "toy-64": Recipe(d=64, layers=3, heads=4, steps=1600, rate=5e-3),
    "toy-128": Recipe(d=128, layers=3, heads=4, steps=1300, rate=3e-3),
    "toy-96-llama": Recipe(d=96, layers=3, heads=4, steps=1400, rate=4e-3, llama_vocab=900),
    TASK_MODEL: Recipe(d=64, layers=3, heads=4, steps=2000, rate=3e-3),
}


def build_model(recipe: Recipe, n_ids: int) -> torch.nn.Module:
    """Build a GPT-2 with tied embeddings, or a Llama with untied ones, at random weights."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    if recipe.llama_vocab is None:
        config = GPT2Config(
            vocab_size=n_ids,
            n_positions=N_POSITIONS,
            n_embd=recipe.d,
            n_layer=recipe.layers,
            n_head=recipe.heads,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=0,
            eos_token_id=0,
            architectures=["GPT2LMHeadModel"],
            activation_function="gelu_pytorch_tanh",
        )
        return GPT2LMHeadModel(config)
    config = LlamaConfig(
        vocab_size=n_ids,
        max_position_embeddings=N_POSITIONS,
        hidden_size=recipe.d,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        intermediate_size=8 * recipe.d // 3,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=False,
        architectures=["LlamaForCausalLM"],
    )
    return LlamaForCausalLM(config)


def log_probs_at(model: Any, batch: Batch) -> Float[Tensor, "predictions ids"]:
    """Return log p(next id) at the places that predict something.

    The unembedding is not run on padding.
    """
    hidden = model.base_model(batch.ids).last_hidden_state
    return model.lm_head(hidden.flatten(0, 1)[batch.place]).log_softmax(-1)


def train(recipe: Recipe, grammar: Grammar, tokenizer: Tokenizer, seed: int = 0) -> torch.nn.Module:
    """Train a model of the grammar's texts."""
    pieces = build_pieces(grammar, tokenizer, len(tokenizer))
    return descend(
        recipe, len(tokenizer), training_batches(grammar, pieces, recipe.tokens, seed), seed
    )


def descend(recipe: Recipe, n_ids: int, batches: Iterator[Batch], seed: int) -> torch.nn.Module:
    """Train with AdamW, a warm-up of 5 % and a cosine to zero.

    It prints the loss above the targets' own entropy.
    """
    torch.manual_seed(seed)
    model = build_model(recipe, n_ids)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    warm = max(1, recipe.steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: min(
            (s + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * max(0, s - warm) / (recipe.steps - warm))
        ),
    )
    start = time.perf_counter()
    for step, batch in zip(range(recipe.steps), batches, strict=False):
        loss = -(batch.target * log_probs_at(model, batch)).sum() / batch.n_tokens
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == recipe.steps - 1:
            floor = torch.special.entr(batch.target).sum() / batch.n_tokens
            excess = loss.item() - floor.item()
            print(
                f"step {step} excess {excess:.4f} seconds {time.perf_counter() - start:.0f}",
                flush=True,
            )
    return model.eval()


def measure(
    model: torch.nn.Module,
    grammar: Grammar,
    tokenizer: Tokenizer,
    n: int = 2000,
    seed: int = HELD_OUT_SEED,
) -> dict[str, float]:
    """Measure held-out NLL, exact NLL and their paired gap with its standard error.

    All are in nats per token of the grammar.

    The end of a text counts as one token. A tokenizer that splits words is charged all pieces of
    its own spelling, divided by the number of the grammar's tokens.
    """
    pieces = build_pieces(grammar, tokenizer, len(tokenizer))
    texts = [
        t for t in grammar.sample(n, seed=seed) if spelled_length(t, grammar, pieces) <= N_POSITIONS
    ]
    exact, nll = -grammar.log_probs(texts), []
    bos = tokenizer.bos_token_id
    with torch.no_grad():
        for begin in range(0, len(texts), 50):
            part = texts[begin : begin + 50]
            rows = [[bos, *tokenizer.encode(text, add_special_tokens=False), bos] for text in part]
            width = max(len(row) for row in rows)
            ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
            mask = torch.tensor(
                [[1.0] * (len(row) - 1) + [0.0] * (width - len(row)) for row in rows]
            )
            log_p = model(ids[:, :-1]).logits.float().log_softmax(-1)
            nll.append(-(log_p.gather(-1, ids[:, 1:, None])[..., 0] * mask).sum(1).double().numpy())
    nats = np.concatenate(nll)
    tokens = np.array([len(text.split()) + 1 for text in texts], dtype=float)
    gap = (nats - exact).sum() / tokens.sum()
    error = (nats - exact - gap * tokens).std() / tokens.mean() / np.sqrt(len(texts))
    total = tokens.sum()
    numbers = {"nll": nats.sum() / total, "exact": exact.sum() / total, "gap": gap, "error": error}
    return {key: round(float(value), 5) for key, value in numbers.items()} | {"texts": len(texts)}


def save(model: Any, tokenizer: Tokenizer, folder: Path) -> None:
    """Write a plain Hugging Face folder.

    It has float16 on disk, and a config that asks for float32 in memory.
    """
    model.half().save_pretrained(folder)
    model.float()
    path = folder / "config.json"
    config = json.loads(path.read_text()) | {"dtype": "float32"}
    if "activation_function" in config:
        # The same function under GPT-2's own name; the other name selects a faster kernel.
        config["activation_function"] = "gelu_new"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    tokenizer.save_pretrained(folder)


def load(name: str) -> tuple[torch.nn.Module, Tokenizer]:
    """Load the shipped model and its tokenizer, from the package and without a network."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = str(weights_folder(name))
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    return model, AutoTokenizer.from_pretrained(folder, local_files_only=True)


def reproduce(name: str, folder: Path) -> None:
    """Train, save, measure what was saved, and write the numbers beside it."""
    grammar, recipe = default_grammar(), RECIPES[name]
    start = time.perf_counter()
    if name == TASK_MODEL:
        tokenizer = word_tokenizer(grammar, EXTRA_WORDS)
        model = descend(
            recipe, len(tokenizer), task_batches(tokenizer, recipe.tokens, seed=0), seed=0
        )
    else:
        size = recipe.llama_vocab
        tokenizer = word_tokenizer(grammar) if size is None else piece_tokenizer(grammar, size)
        model = train(recipe, grammar, tokenizer)
    seconds = round(time.perf_counter() - start)
    folder.mkdir(parents=True, exist_ok=True)
    save(model, tokenizer, folder)
    command = f"python -m steerlens.toy.train {name} --threads {torch.get_num_threads()}"
    numbers = {"command": command, "seconds": seconds}
    numbers |= {"steps": recipe.steps, "parameters": sum(p.numel() for p in model.parameters())}
    numbers |= {"threads": torch.get_num_threads()} | measured(name, model, tokenizer)
    (folder / "training.json").write_text(json.dumps(numbers, indent=2) + "\n")
    print(name, numbers, flush=True)


def measured(name: str, model: torch.nn.Module, tokenizer: Tokenizer) -> dict:
    """Return the numbers of a shipped model, by what it is a model of."""
    if name == TASK_MODEL:
        return measure_tasks(model, tokenizer)
    return measure(model, default_grammar(), tokenizer)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "\n").splitlines()[0])
    parser.add_argument(
        "names", nargs="*", default=SHIPPED, help=f"models, by default all: {', '.join(SHIPPED)}"
    )
    parser.add_argument(
        "--out", type=Path, help="parent folder (default: the package's own weights)"
    )
    parser.add_argument(
        "--measure", action="store_true", help="measure the shipped models, train nothing"
    )
    parser.add_argument(
        "--threads", type=int, default=2, help="cores to use; last digits depend on it"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for name in arguments.names:
        if arguments.measure:
            model, tokenizer = load(name)
            print(name, measured(name, model, tokenizer), flush=True)
        else:
            reproduce(name, arguments.out / name if arguments.out else weights_folder(name))


if __name__ == "__main__":
    main()
