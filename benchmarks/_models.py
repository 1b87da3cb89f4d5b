"""What the benchmarks run on: random models of real sizes, and texts."""

import os
from copy import deepcopy
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import steerlens as sl

SHARED = Path(__file__).parent.parent.parent / "shared"
"""Larger models and data lie beside the repository, where they are there at all."""

SMOLLM2 = (
    Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "steerlens-lms/smollm2-135m"
)
"""Where ../shared/lms/make_smollm2.sh puts a language model of 135M parameters."""

GPT2_SMALL = (768, 12, 50_257)
TOY = "toy-128"


def write_tokenizer(n: int, folder: str) -> None:
    """A tokenizer of n words `w0 w1 …`, so that a model with random weights has a vocabulary of any
    size."""
    tokenizer = Tokenizer(models.WordLevel({f"w{k}": k for k in range(n)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="w1", unk_token="w0"
    ).save_pretrained(folder)


def random_lm(d: int, layers: int, vocab: int, *, seed: int = 0) -> GPT2LMHeadModel:
    """A GPT-2 with random weights, its unembedding its own."""
    torch.manual_seed(seed)
    config = GPT2Config(
        n_layer=layers, n_embd=d, n_head=max(d // 64, 1), vocab_size=vocab, n_positions=256, tie_word_embeddings=False,
        bos_token_id=1, eos_token_id=None,
    )  # fmt: skip
    config.architectures = ["GPT2LMHeadModel"]
    return GPT2LMHeadModel(config).eval().requires_grad_(False)


def boot(lm: GPT2LMHeadModel) -> object:
    from transformer_lens.model_bridge import TransformerBridge

    with TemporaryDirectory(
        prefix="steerlens-"
    ) as folder:  # TransformerLens reads a tokenizer again from where it lies
        write_tokenizer(lm.config.vocab_size, folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        return TransformerBridge.boot_transformers(
            "random", hf_model=lm, tokenizer=tokenizer, device="cpu", dtype=torch.float32
        )


class Random(NamedTuple):
    """A random model, a random steer on it, and the same model with the steer folded into its
    unembedding."""

    model: object
    steer: sl.Steer
    folded: object
    sizes: str


@cache
def random_models(d: int, layers: int, vocab: int) -> Random:
    lm = random_lm(d, layers, vocab)
    other = deepcopy(lm)
    model = boot(lm)
    W = torch.randn(d, d, generator=torch.Generator().manual_seed(1)) / d
    head = other.lm_head.weight
    other.lm_head.weight = torch.nn.Parameter(
        head + head @ W.T, requires_grad=False
    )  # logits are (c + cW) W_U
    steer = sl.Steer(W, sl.readout(model), "random")
    return Random(
        model, steer, boot(other), f"random GPT-2, d {d}, {layers} layers, vocabulary {vocab:,}"
    )


def random_texts(n: int, low: int, high: int, vocab: int, *, seed: int = 0) -> sl.Labelled:
    """Texts of `low … high` random words, with the labels +1 and -1 in turn."""
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(low, high + 1, (n,), generator=random).tolist()
    words = [torch.randint(2, vocab, (length,), generator=random).tolist() for length in lengths]
    return sl.Labelled(
        tuple(" ".join(f"w{k}" for k in ids) for ids in words),
        tuple(1.0 - 2 * (k % 2) for k in range(n)),
    )


class Case(NamedTuple):
    """A trained model with labelled texts, or the reason why there is none."""

    name: str
    model: object
    train: sl.Labelled
    test: sl.Labelled


def toy_case(name: str = TOY, n: int = 4000) -> Case:
    train, test = (sl.toy.corpus("sentiment", n=m, seed=k) for k, m in enumerate((n, n // 4)))
    return Case(f"{name}, sentiment, {n:,} texts", frozen(sl.load_model(name)), train, test)


def reviews_case(name: str = "reviews-192") -> Case | str:
    folder = SMOLLM2 if name == SMOLLM2.name else SHARED / f"lms/{name}"
    train, test = (SHARED / f"data/sst5_{part}.jsonl" for part in ("train", "dev"))
    missing = [path.name for path in (folder, train, test) if not path.exists()]
    if missing:
        return f"{', '.join(missing)} not found in ../shared (smollm2-135m: make it with ../shared/lms/make_smollm2.sh)"
    texts = sl.read_labelled(train)
    return Case(
        f"{name}, SST-5, {len(texts):,} texts",
        frozen(sl.load_model(folder)),
        texts,
        sl.read_labelled(test),
    )


def frozen(model: object) -> object:
    """Parameters without gradients, so that no way pays for those of the model."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model
