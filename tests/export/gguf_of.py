"""A small converter of Llama checkpoints to GGUF, in 32 or 16 bits: enough for tests."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import transformers

NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def write_gguf(folder: Path, path: Path, dtype: Any = np.float32) -> Path:
    """Write a Hugging Face Llama's folder as GGUF."""
    import gguf
    import torch

    hf: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    c, out = hf.config, gguf.GGUFWriter(path, "llama")
    heads, kv_heads = c.num_attention_heads, c.num_key_value_heads
    head_dim = c.hidden_size // heads
    out.add_context_length(c.max_position_embeddings)
    out.add_embedding_length(c.hidden_size)
    out.add_block_count(c.num_hidden_layers)
    out.add_feed_forward_length(c.intermediate_size)
    out.add_head_count(heads)
    out.add_head_count_kv(kv_heads)
    out.add_rope_dimension_count(head_dim)
    out.add_rope_freq_base(float(c.rope_parameters["rope_theta"]))
    out.add_layer_norm_rms_eps(c.rms_norm_eps)
    out.add_vocab_size(c.vocab_size)
    _add_tokens(out, folder, c)
    for name, parameter in hf.state_dict().items():
        if name == "lm_head.weight" and c.tie_word_embeddings:
            continue
        x = parameter.float().numpy()
        for part, n in (("q_proj", heads), ("k_proj", kv_heads)):
            if part in name:  # llama.cpp turns neighbours, Hugging Face halves
                x = x.reshape(n, 2, head_dim // 2, -1).swapaxes(1, 2).reshape(x.shape)
        stem, kind = name.rsplit(".", 1)
        if stem.startswith("model.layers."):
            _, _, layer, inner = stem.split(".", 3)
            stem = f"blk.{layer}.{NAMES[inner]}"
        else:
            stem = NAMES[stem]
        x = x.astype(np.float32 if x.ndim == 1 else dtype)
        out.add_tensor(f"{stem}.{kind}", np.ascontiguousarray(x))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


def _add_tokens(out: Any, folder: Path, config: Any) -> None:
    """The vocabulary: byte-level pairs as they are; of other kinds, whose texts llama.cpp would cut
    otherwise, only ids can be used."""
    import gguf

    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    words = {i: token for token, i in content["vocab"].items()}
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    words |= {i: token.content for i, token in tokenizer.added_tokens_decoder.items()}
    special = set(tokenizer.all_special_ids)
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("smollm")
    out.add_token_list([words.get(i, f"[unused {i}]") for i in range(config.vocab_size)])
    kinds = (
        gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL
        for i in range(config.vocab_size)
    )
    out.add_token_types(list(kinds))
    merges = content.get("merges") or [["a", "b"]]
    out.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    out.add_bos_token_id(config.bos_token_id if config.bos_token_id is not None else 0)
    out.add_eos_token_id(config.eos_token_id if config.eos_token_id is not None else 0)
    out.add_add_bos_token(False)
