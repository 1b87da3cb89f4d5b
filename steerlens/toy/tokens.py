"""The tokenizers of the shipped models: whole words, or pieces of words."""

import json
from collections import Counter
from typing import TYPE_CHECKING

from steerlens.toy.hmm import Grammar
from steerlens.toy.tables import END

if TYPE_CHECKING:
    from tokenizers import Tokenizer as RawTokenizer
    from transformers import PreTrainedTokenizerFast as Tokenizer
else:
    # The annotation alone must not import a model library.
    Tokenizer = object

UNKNOWN = "<|unk|>"
MAX_LENGTH = 256


def word_tokenizer(grammar: Grammar, extra: tuple[str, ...] = ()) -> "Tokenizer":
    """Build a tokenizer with one id for each word.

    0 ends (and begins) a text, 1 is any other word, then the vocabulary in order, then `extra`.
    """
    from tokenizers import Tokenizer as RawTokenizer
    from tokenizers import models, pre_tokenizers

    ids = {token: i for i, token in enumerate((END, UNKNOWN, *grammar.vocab[1:], *extra))}
    raw = RawTokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _wrap(raw)


def piece_tokenizer(
    grammar: Grammar, vocab_size: int, n: int = 20_000, seed: int = 7
) -> "Tokenizer":
    """Build a tokenizer with frequent words whole and the rest in byte-pair pieces.

    "▁" marks the beginning of a word.

    Two thirds of the ids are the words that are commonest in `n` sampled texts, in that order; the
    last third are letters and merges learned from the words that are left. (Merges learned from all
    words would spend most ids on the insides of words that never occur in pieces.)
    """
    from tokenizers import Tokenizer as RawTokenizer
    from tokenizers import decoders, models, pre_tokenizers, trainers

    counts = Counter(word for text in grammar.sample(n, seed=seed) for word in text.split())
    ranked = sorted(grammar.vocab[1:], key=lambda word: (-counts[word], word))
    whole = 2 * vocab_size // 3
    space = pre_tokenizers.Metaspace(prepend_scheme="always")
    learner = RawTokenizer(models.BPE(unk_token=UNKNOWN))
    learner.pre_tokenizer = space
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - whole - 2,
        show_progress=False,
        initial_alphabet=list("abcdefghijklmnopqrstuvwxyz▁"),
    )
    learner.train_from_iterator(ranked[whole:], trainer)
    learned = json.loads(learner.to_str())["model"]
    pieces = sorted(learned["vocab"], key=learned["vocab"].get)
    tokens = dict.fromkeys([END, UNKNOWN, *("▁" + word for word in ranked[:whole]), *pieces])
    raw = RawTokenizer(
        models.BPE(
            vocab={token: i for i, token in enumerate(tokens)},
            merges=[tuple(pair) for pair in learned["merges"]],
            unk_token=UNKNOWN,
            # A word that has an id of its own is never split, although no merges lead to it.
            ignore_merges=True,
        )
    )
    raw.pre_tokenizer = space
    raw.decoder = decoders.Metaspace(prepend_scheme="always")
    return _wrap(raw)


def _wrap(raw: "RawTokenizer") -> "Tokenizer":
    """Add special tokens and lengths.

    Clean-up is off because texts keep a space before their punctuation.
    """
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token=END,
        eos_token=END,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_LENGTH,
    )


def load_pieces(tokenizer: "Tokenizer", vocab: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    """Return the ids that spell each token of the grammar's vocabulary.

    The end of the text is id 0.
    """
    return ((0,), *(tuple(tokenizer.encode(word, add_special_tokens=False)) for word in vocab[1:]))
