"""The longest sequence that a model reads (what its configuration says, and no more than it has
positions for, nor than it reads alike in any company), and which families' texts begin with a
token of their own."""

from typing import Any

from torch import nn

CONTEXTS = (
    "max_position_embeddings", "n_positions", "n_ctx", "seq_length", "max_seq_len",
    "max_sequence_length", "max_seq_length", "context_length",
)  # fmt: skip
"""What configurations call the longest sequence."""
WITHOUT_BOS = frozenset((
    "bloom", "ernie4_5", "ernie4_5_moe", "exaone4", "glm", "glm4", "glm4_moe", "glm4_moe_lite", "glm4v", "glm_moe_dsa",
    "gpt_neox", "granite", "granitemoe", "llada", "minimax_m2", "mpt", "phi", "phimoe", "qwen2", "qwen2_5_vl", "qwen2_moe",
    "qwen3", "qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_moe", "qwen3_next", "qwen3_vl",
    "recurrent_gemma", "seed_oss", "smollm3", "starcoder2",
))  # fmt: skip
"""Families whose texts had no begin-of-text in training, though their tokenizers may have one; the
same as TransformerLens knows, so that a model reads a text alike through both."""
NO_LIMIT = 2_048
"""Of a model that names no longest sequence (a recurrent one); longer texts are cut there."""
TABLES = ("wpe", "position_embeddings", "embed_positions", "positions_embed")
"""What models call a table with a row per position; it lies beside that of the words."""


def longest(model: Any, config: Any, tokenizer: Any) -> int:
    """Return how many tokens a Hugging Face model reads at most.

    A configuration may say more than there are positions for: that of RoBERTa counts rows that no
    position has, and a user may have raised the number of any.

    Args:
        model: of Hugging Face.
        config: of its language model.
        tokenizer: asked where the configuration names no longest sequence.
    """
    said = (getattr(config, name, None) for name in CONTEXTS)
    found = next((n for n in said if isinstance(n, int) and n > 0), None)
    found = found or min(getattr(tokenizer, "model_max_length", NO_LIMIT), NO_LIMIT)
    found = min(found, read_alike(config, found))
    words = model.get_input_embeddings()
    for part in model.modules():
        beside = dict(part.named_children())
        if any(child is words for child in beside.values()):
            return min([found, *(n_positions(beside.get(name), found) for name in TABLES)])
    return found


def read_alike(config: Any, otherwise: int) -> int:
    """Return up to which length a text's numbers are its own.

    With long-RoPE the longest text of a batch decides how the positions of all are turned, and keys
    that a cache holds were turned the other way: beyond that length nothing is what it is alone.

    Example:
        >>> from types import SimpleNamespace as Of
        >>> long = {"rope_type": "longrope", "original_max_position_embeddings": 4096}
        >>> read_alike(Of(rope_parameters=long), 131072), read_alike(Of(rope_parameters={}), 131072)
        (4096, 131072)
    """
    said = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    beside = getattr(config, "original_max_position_embeddings", None)
    # one for all layers, or one for each type of layer
    ropes = [rope for rope in (said, *said.values()) if isinstance(rope, dict)]
    begins = [
        rope.get("original_max_position_embeddings") or beside
        for rope in ropes
        if rope.get("rope_type", rope.get("type")) in ("longrope", "su")
    ]
    return min([otherwise, *(n for n in begins if n)])


def n_positions(table: nn.Module | None, otherwise: int) -> int:
    """Return for how many positions a table has rows; what is no table limits nothing.

    Example:
        >>> n_positions(nn.Embedding(64, 2, padding_idx=1), 64)     # RoBERTa's, which counts from 2
        62
        >>> n_positions(None, 64)
        64
    """
    if not isinstance(table, nn.Embedding):
        return otherwise
    # positions begin behind that of padding; those of OPT, BART and their kin by an offset
    before = getattr(table, "offset", 0) if table.padding_idx is None else table.padding_idx + 1
    return table.num_embeddings - before
