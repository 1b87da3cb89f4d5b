"""A tiny random model of every causal family that transformers knows, made from its configuration;
nothing is downloaded."""

import inspect
from typing import Any

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

V, D, LAYERS, N_CTX = 337, 32, 2, 64
"""The words of the `bytes` tokenizer and seven rows of padding; width, layers, context."""

SMALL: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "n_vocab", "vocab_size_per_layer_input"), V),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "emb_dim", "embedding_dim", "embedding_size"), D),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "num_blocks"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "n_kv_heads", "num_kv_heads", "num_global_key_value_heads"), 2),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "decoder_ffn_dim", "d_ff", "ffn_hidden_size"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "dense_intermediate_size"), 24),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"), N_CTX),
    **dict.fromkeys(("head_dim", "kv_channels", "global_head_dim", "attention_head_dim", "d_head", "qk_nope_head_dim"), 8),
    **dict.fromkeys(("qk_rope_head_dim", "v_head_dim", "rotary_dim", "index_head_dim", "qk_head_dim"), 8),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "o_lora_rank", "lora_rank", "dt_rank", "mamba_dt_rank"), 8),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "top_k_experts", "moe_k", "num_experts_per_token"), 2),
    **dict.fromkeys(("state_size", "mamba_d_state", "ssm_state_size", "linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "linear_num_value_heads", "n_mamba_heads"), 4),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim"), 16),
    **dict.fromkeys(("linear_num_key_heads", "index_n_heads", "num_shared_experts", "n_shared_experts"), 2),
    **dict.fromkeys(("mamba_n_groups", "n_groups", "n_group", "topk_group", "first_k_dense_replace"), 1),
    **dict.fromkeys(("attention_hidden_size", "lru_width", "linear_attn_hidden_size"), D),
    **dict.fromkeys(("sliding_window", "attention_chunk_size", "attention_window_size", "window_size"), 16),
    **dict.fromkeys(("attention_dropout", "hidden_dropout", "dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
    **dict.fromkeys(("attention_probs_dropout_prob", "hidden_dropout_prob", "activation_dropout", "layerdrop"), 0.0),
    **dict.fromkeys(("decoder_layerdrop", "attn_dropout", "resid_dropout", "embd_dropout"), 0.0),
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1, "hidden_size_per_layer_input": 8, "index_topk": 16,
    "is_decoder": True, "use_cache": True, "chunk_size": 16, "mamba_chunk_size": 16, "num_kv_shared_layers": 0,
}  # fmt: skip
"""Sizes by every name that configurations have for them; each takes those it knows."""

NEO: Any = [[["global", "local"], 1]]
SOME: dict[str, dict[str, Any]] = {
    "gpt_neo": {"attention_types": NEO},
    "dots3_note": {"num_key_value_heads": 4},
    "dots3_note_text": {"num_key_value_heads": 4},
    "zaya": {"num_experts_per_tok": 1, "moe_router_topk": 1},
    "gemma4_assistant": {"hidden_size_per_layer_input": 0},
    "reformer": {"axial_pos_embds": False},
    "zamba2": {"attention_hidden_size": 64, "attention_head_dim": 16},
    "zamba": {"attention_hidden_size": 64, "attention_head_dim": 16, "num_hidden_layers": 4, "attn_layer_period": 2,
              "attn_layer_offset": 1},
    "jamba": {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2},
    "bamba": {"attn_layer_indices": [1]},
    "falcon_h1": {"mamba_d_ssm": 64},
    "mamba2": {"head_dim": 16},
    "rembert": {"input_embedding_size": D, "output_embedding_size": D},
    "roc_bert": {"enable_pronunciation": False, "enable_shape": False},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"], "layers_block_type": ["mamba", "attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
}  # fmt: skip
"""What single families want otherwise."""

FAMILIES = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def config_of(family: str, **changes: Any) -> Any:
    """A small configuration of a family."""
    cls = transformers.models.auto.configuration_auto.CONFIG_MAPPING[family]
    usual = cls()
    text = usual.get_text_config(decoder=True)
    wanted = SMALL | SOME.get(family, {}) | changes
    name = next((n for n, value in vars(usual).items() if value is text), None)
    if name is None:
        return cls(**_known(cls, usual, wanted))
    # a model that reads more than texts: all parts are made small, each by the names it knows
    parts = {
        n: _known(type(part), part, wanted)
        for n, part in vars(usual).items()
        if isinstance(part, transformers.PretrainedConfig)
    }
    return cls(**_known(cls, usual, wanted | parts))


def _known(cls: type, usual: Any, wanted: dict[str, Any]) -> dict[str, Any]:
    """Those of the wanted settings that a configuration has; lists of layers are cut to length."""
    names = set(usual.to_dict()) | set(inspect.signature(cls.__init__).parameters)
    names |= set(getattr(cls, "attribute_map", {}))
    names -= {"self", "kwargs"}
    known = {name: value for name, value in wanted.items() if name in names}
    if "qk_rope_head_dim" in known:  # the width of a head follows from its parts
        known.pop("qk_head_dim", None)
        known |= {"head_dim": 8, "num_key_value_heads": 4}
    same = getattr(cls, "attribute_map", {})  # one setting under two names
    for alias, name in same.items():
        if alias in known and name in known:
            known.pop(alias)
    for name in ("layer_types", "mlp_layer_types", "layers_block_type"):
        kinds = getattr(usual, name, None)
        settable = not isinstance(getattr(cls, same.get(name, name), None), property)
        if isinstance(kinds, list) and settable and name not in wanted:
            distinct = list(dict.fromkeys(kinds))
            known[name] = (distinct * LAYERS)[: known.get("num_hidden_layers", LAYERS)]
    return known


def model_of(family: str, **changes: Any) -> Any:
    """A seeded model of a family whose every parameter matters: no gain is 1, no bias 0."""
    config = config_of(family, **changes)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    model.config.architectures = [type(model).__name__]
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            spread = 0.3 if parameter.ndim == 2 and V in parameter.shape else 0.08
            if parameter.is_floating_point() and "A_log" not in name and "dt_bias" not in name:
                parameter.add_(spread * torch.randn_like(parameter))
    return model
