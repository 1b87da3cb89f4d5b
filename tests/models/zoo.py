"""Tiny random models of every class that this TransformerLens has; nothing is downloaded."""

import copy
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
import transformers
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from torch import Tensor

import steerlens as sl
from tests.models import plain
from tests.values.make import make_reft, picked

try:
    from transformer_lens import HookedTransformer
except ImportError:  # removed in TransformerLens 4
    HookedTransformer = None

D, N_CTX, PADDING = 32, 40, 5
CORPUS = (
    "the film was good . the film was bad ! a very fine cast , and a slow plot ? we liked the food , not the waiter ; "
    "the author wrote a dull and long book . nothing here is worth the money . I would see it again tomorrow ."
)
TEXTS = (
    "the film was good .",
    "a very fine cast , and a slow plot ?",
    "nothing",
    "the author wrote a dull and long book . we liked the food",
)
COMMON: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
LLAMA: dict[str, Any] = {
    "hidden_size": D, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": N_CTX, "attention_dropout": 0.0, **COMMON,
}  # fmt: skip


@cache
def tokenizer(kind: str) -> transformers.PreTrainedTokenizerFast:
    """`"bytes"` as GPT-2's: a leading space belongs to its word; `"words"`: a space separates,
    unknown words are one id."""
    if kind == "bytes":
        raw = Tokenizer(models.BPE())
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        raw.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=330,
            special_tokens=["<|end|>"],
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
        raw.train_from_iterator([CORPUS] * 3, trainer)
    else:
        words = dict.fromkeys(["<|end|>", "<|unk|>", *CORPUS.split()])
        raw = Tokenizer(
            models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<|unk|>")
        )
        raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<|end|>",
        eos_token="<|end|>",
        clean_up_tokenization_spaces=False,
    )


SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")
KINDS = ("bytes", "words", "fallback", "unigram", "lower")


@cache
def other_tokenizer(kind: str) -> transformers.PreTrainedTokenizerFast:
    """`"fallback"` as Llama's: `▁` is a space and an unknown character its bytes; `"unigram"`
    composes characters (NFKC); `"lower"` as BERT's: no case, no spaces, no accents. Texts begin
    with `<s>` and end with `</s>`."""
    special: Any = list(SPECIAL)
    if kind == "fallback":
        raw = Tokenizer(models.BPE())
        raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        special += [f"<0x{i:02X}>" for i in range(256)]
        raw.train_from_iterator(
            [CORPUS],
            trainers.BpeTrainer(vocab_size=420, special_tokens=special, show_progress=False),
        )
        learned = json.loads(raw.to_str())["model"]
        merges = [tuple(pair) for pair in learned["merges"]]
        raw = Tokenizer(
            models.BPE(
                learned["vocab"], merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True
            )
        )
        raw.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        strip = decoders.Strip(" ", 1, 0)
        raw.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip]
        )
        raw.add_special_tokens(
            [AddedToken(name, normalized=False, special=True) for name in SPECIAL]
        )
    elif kind == "unigram":
        raw = Tokenizer(models.Unigram())
        raw.normalizer, raw.pre_tokenizer, raw.decoder = (
            normalizers.NFKC(),
            pre_tokenizers.Metaspace(),
            decoders.Metaspace(),
        )
        trainer = trainers.UnigramTrainer(
            vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False
        )
        raw.train_from_iterator([CORPUS] * 3, trainer)
    else:
        raw = Tokenizer(models.WordPiece(unk_token="<unk>"))
        raw.normalizer, raw.pre_tokenizer = (
            normalizers.BertNormalizer(),
            pre_tokenizers.BertPreTokenizer(),
        )
        raw.decoder = decoders.WordPiece()
        raw.train_from_iterator(
            [CORPUS],
            trainers.WordPieceTrainer(vocab_size=150, special_tokens=special, show_progress=False),
        )
    names = dict(zip(("unk_token", "bos_token", "eos_token", "pad_token"), SPECIAL, strict=True))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, clean_up_tokenization_spaces=False, **names
    )


def copy_of(kind: str) -> transformers.PreTrainedTokenizerFast:
    """A tokenizer of one of the KINDS that a test may change."""
    return copy.deepcopy(tokenizer(kind) if kind in ("bytes", "words") else other_tokenizer(kind))


def tiny_with(words: transformers.PreTrainedTokenizerFast, n: int | None = None) -> Any:
    """A random GPT-2 for a tokenizer, with `n` embeddings (as many as it has ids, if not given)."""
    config = transformers.GPT2Config(
        vocab_size=n or max(words.get_vocab().values()) + 1, n_positions=N_CTX, n_embd=D, n_layer=2, n_head=4,
        initializer_range=0.3, bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    path = Path(mkdtemp(prefix="steerlens-zoo-")) / "tiny"
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(path)
    words.save_pretrained(path)
    return sl.load_model(path)


def source(kind: str, *, padding: int = 0) -> transformers.PreTrainedModel:
    """A seeded Hugging Face model whose every parameter matters: no gain is 1, no bias 0."""
    n = len(tokenizer("words" if kind == "llama" else "bytes")) + padding
    if kind == "gpt2":
        config: Any = transformers.GPT2Config(
            vocab_size=n, n_positions=N_CTX, n_embd=D, n_layer=2, n_head=4, resid_pdrop=0.0, embd_pdrop=0.0,
            attn_pdrop=0.0, **COMMON,
        )  # fmt: skip
    elif kind == "llama":
        config = transformers.LlamaConfig(vocab_size=n, tie_word_embeddings=False, **LLAMA)
    elif kind == "gemma2":
        config = transformers.Gemma2Config(
            vocab_size=n, head_dim=8, final_logit_softcapping=4.0, sliding_window=64, **LLAMA
        )
    else:
        config = transformers.CohereConfig(vocab_size=n, logit_scale=0.25, **LLAMA)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    model.config.architectures = [type(model).__name__]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 0.4 if "embed" in name or "wte" in name or "lm_head" in name else 0.15
            parameter.add_(spread * torch.randn_like(parameter))
    return model


@cache
def folder(kind: str, padding: int = 0) -> Path:
    """The same as a Hugging Face folder on disk."""
    path = Path(mkdtemp(prefix="steerlens-zoo-")) / f"tiny-{kind}"
    source(kind, padding=padding).save_pretrained(path)
    tokenizer("words" if kind == "llama" else "bytes").save_pretrained(path)
    return path


def _folded() -> Any:
    model = sl.load_model(folder("gpt2"))
    model.enable_compatibility_mode(disable_warnings=True)
    return model


def _bfloat16() -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    model = source("gpt2").to(torch.bfloat16)
    return TransformerBridge.boot_transformers(
        "tiny", hf_model=model, tokenizer=_in_memory("bytes"), device="cpu", dtype=torch.bfloat16
    )


def _native() -> Any:
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    words = _in_memory("words")
    config = TransformerBridgeConfig(
        d_model=D, d_head=8, n_heads=4, n_layers=2, n_ctx=N_CTX, d_vocab=len(words), d_mlp=48, act_fn="gelu",
        normalization_type="LN", device="cpu", seed=0,
    )  # fmt: skip
    model = TransformerBridge.boot_native(config, tokenizer=words)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def _in_memory(kind: str) -> transformers.PreTrainedTokenizerFast:
    """A tokenizer that TransformerLens keeps as it is, instead of reading it again from a path."""
    raw = tokenizer(kind)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw._tokenizer, bos_token="<|end|>", eos_token="<|end|>", add_bos_token=True,
        name_or_path="memory", clean_up_tokenization_spaces=False,
    )  # fmt: skip


def _processed() -> Any:
    model = sl.load_model(folder("gpt2"), hooked=True)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    model.load_and_process_state_dict(
        state, fold_ln=True, center_writing_weights=True, center_unembed=True
    )
    return model


def _plain(kind: str) -> plain.Plain:
    found = sl.load_model(folder(kind), plain=True)
    return plain.Plain(found.model, found.tokenizer)


BUILDERS: dict[str, Callable[[], Any]] = {
    "toy-64": lambda: sl.load_model("toy-64"),
    "toy-96-llama": lambda: sl.load_model("toy-96-llama"),
    "gpt2": lambda: sl.load_model(folder("gpt2")),
    "llama": lambda: sl.load_model(folder("llama")),
    "padded": lambda: sl.load_model(folder("gpt2", PADDING)),
    "folded": _folded,
    "bfloat16": _bfloat16,
    "native": _native,
    "gemma2": lambda: sl.load_model(folder("gemma2")),
    # 3.x turns its positions otherwise, and is refused
    "cohere": lambda: (
        sl.load_model(folder("cohere")) if HookedTransformer is None else _plain("cohere")
    ),
    "plain-gpt2": lambda: _plain("gpt2"),
    "plain-gemma2": lambda: _plain("gemma2"),
}
if HookedTransformer is not None:
    BUILDERS |= {
        "hooked-gpt2": lambda: sl.load_model(folder("gpt2"), hooked=True),
        "hooked-llama": lambda: sl.load_model(folder("llama"), hooked=True),
        "hooked-processed": _processed,
    }
IN_TURN = [name for name in BUILDERS if HookedTransformer is None or not name.startswith("plain-")]
"""Those that every law is tried on; what TransformerLens has no part in, beside its newer version
alone."""


@cache
def zoo(name: str) -> Any:
    """A model, built once; tests leave it as it was."""
    return BUILDERS[name]()


def random_steer(model: Any, *, seed: int = 0, size: float = 0.5, name: str = "random") -> sl.Steer:
    """A seeded steer of a size that changes what is written."""
    on = sl.readout(model)
    W = torch.randn(on.d_model, on.d_model, generator=torch.Generator().manual_seed(seed))
    return sl.Steer(size * W / on.d_model**0.5, on, name)


def random_reft(model: Any, variant: str = "loreft", **options: Any) -> sl.Reft:
    """A seeded edit of hidden states of a size that changes what is written; see `make_reft`."""
    return make_reft(variant, sl.readout(model), **options)


def edited_by_hand(
    model: Any, ids: list[int], reft: sl.Reft, strength: float, prompt: int
) -> tuple[Tensor, Tensor]:
    """Contexts and logits of one text, by TransformerLens' own hooks on one whole pass; `prompt`
    tokens of it are the prompt."""
    seen: list[Tensor] = []
    beginning, end = picked(reft.positions, prompt, len(ids))
    a_layer = len(reft.R) // len(reft.layers)

    def hook_at(k: int) -> Callable[..., Tensor]:
        def hook(h: Tensor, hook: Any) -> Tensor:
            changed = h.float().clone()
            for places, edit in ((beginning, k * a_layer), (end, k * a_layer + a_layer - 1)):
                changed[0, places] += strength * reft.change(h.float()[0, places], edit)
            return changed.to(h.dtype)

        return hook

    hooks = [(f"blocks.{layer}.hook_resid_post", hook_at(k)) for k, layer in enumerate(reft.layers)]
    look = ("unembed.hook_in", lambda c, hook: seen.append(c))
    with torch.no_grad():
        logits = model.run_with_hooks(torch.tensor([ids]), fwd_hooks=[*hooks, look])
    return seen[0][0].float(), logits[0].float()


def other_than(model: Any) -> Any:
    """A model of the zoo that lives on another `W_U`."""
    of_gemma2 = sl.readout(model).same_as(sl.readout(zoo("gemma2")))
    return zoo("cohere" if of_gemma2 else "gemma2")


def add_hook(model: Any, name: str, function: Callable[..., Any]) -> Callable[[], None]:
    """A hook of the user's own, as the model's library sets it; returns what takes it out."""
    if isinstance(model, plain.Plain):
        return model.place(name, function).remove
    model.add_hook(name, function)
    return model.hook_dict[name].remove_hooks


def hook_count(model: Any) -> int:
    """How many forward hooks the model's hook points hold."""
    if isinstance(model, plain.Plain):
        return plain.hook_count(model)
    return sum(
        len(point._forward_hooks) + len(point.fwd_hooks) for point in model.hook_dict.values()
    )


def contexts(model: Any, tokens: Tensor) -> Tensor:
    """The input of the unembedding, by TransformerLens' own cache."""
    with torch.no_grad():
        return model.run_with_cache(tokens, names_filter="unembed.hook_in")[1]["unembed.hook_in"]


def by_hand(model: Any, c: Tensor) -> Tensor:
    """Logits of context vectors from the model's own numbers and its configuration's, in
    float32."""
    z = c.float() @ model.W_U.detach().float() + model.b_U.detach().float()
    config = getattr(getattr(model, "original_model", None), "config", None)
    z = z * (getattr(config, "logit_scale", None) or 1.0)
    cap = getattr(config, "final_logit_softcapping", None)
    return z if cap is None else cap * torch.tanh(z / cap)


def tokens_of(model: Any, *, rows: int = 3, width: int = 7, seed: int = 0) -> Tensor:
    """Seeded random tokens that the tokenizer can produce."""
    n = min(len(model.tokenizer), model.W_U.shape[1])
    return torch.randint(1, n, (rows, width), generator=torch.Generator().manual_seed(seed))


def near(model: Any) -> dict[str, float]:
    """How close is equal: rounding of float32, or of bfloat16 at logits of some ten."""
    return (
        {"rtol": 3e-2, "atol": 0.25}
        if model.W_U.dtype == torch.bfloat16
        else {"rtol": 1e-4, "atol": 1e-4}
    )
