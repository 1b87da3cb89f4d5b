"""Write a steer as a low-rank adapter on the head, for peft."""

from pathlib import Path

import torch
from safetensors.torch import save as to_bytes

from steerlens.maths.numbers import as_count
from steerlens.maths.svd import svd
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.models.hooks import Model
from steerlens.models.plain_source import head_name, plain_source
from steerlens.models.readout import readout
from steerlens.models.steering import check_lives_on
from steerlens.values.affine import AffineSteer, affine_map
from steerlens.values.atomic import write_bytes, write_json
from steerlens.values.fit import Fit, value_of
from steerlens.values.paths import as_path
from steerlens.values.steer import Steer, SteerWithBackground


@torch_defaults()
def lora(
    model: Model,
    steer: Steer | AffineSteer | SteerWithBackground | Fit,
    strength: float,
    path: str | Path,
    *,
    rank: int | None = None,
) -> Path:
    """Write a steer as a LoRA adapter on the head, in peft's format.

        ΔW_head = s (W W_U)ᵀ = lora_B lora_A        lora_A = √s Aᵀ, lora_B = √s (B W_U)ᵀ, W = AB

    `peft.PeftModel.from_pretrained(model, path)` adds it to the plain model; several lie side by
    side and are switched there. Its rank is the steer's; a whole one is as large as the head. The
    constant `v` of an affine steer is the bias of lora_B, `s v W_U` (peft 0.14 or newer).

    Args:
        model, steer, strength: as in `fold`.
        path: a folder, made where it does not exist; an adapter that is there is replaced.
        rank: the nearest of a rank, by the SVD of `W`; None: all of it.

    Raises:
        ValueError: as `fold` does, but for what only a reload shows.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> joy = sl.fit_steer(sl.collect(model, sl.toy.corpus("sentiment", n=100, seed=0))).value
        >>> sorted(p.name for p in lora(model, joy, 2.0, "joy-lora", rank=4).iterdir())
        ['adapter_config.json', 'adapter_model.safetensors']
    """
    value = value_of(steer)
    M, constant = affine_map(value, strength)
    check_lives_on(value, model, "steer")
    on, source = readout(model), plain_source(model)
    U, s, Vh = svd(M - torch.eye(on.d_model, dtype=torch.float64))
    kept = max(int((s > 1e-7 * s[0]).sum()), 1)
    if rank is not None:
        expected = f"a whole number, 1 … {on.d_model} (d_model), or None"
        kept = as_count(rank, "rank", expected, most=on.d_model)
    root = s[:kept].sqrt()
    W_U = on.W_U.double().cpu()
    A, B = (U[:, :kept] * root).mT, (root[:, None] * Vh[:kept]) @ W_U
    name = head_name(source).removesuffix(".weight")
    folder = as_path(path)
    folder.mkdir(parents=True, exist_ok=True)
    affine = bool(constant.any())
    weights = {"lora_A.weight": A, "lora_B.weight": B.mT}
    weights |= {"lora_B.bias": constant @ W_U} if affine else {}
    tensors = {
        f"base_model.model.{name}.{part}": t.float().contiguous() for part, t in weights.items()
    }
    write_bytes(folder / "adapter_model.safetensors", to_bytes(tensors, metadata={"format": "pt"}))
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": source.name_or_path or None, "r": kept,
        "lora_alpha": kept, "lora_dropout": 0.0, "target_modules": [name], "bias": "none", "fan_in_fan_out": False,
        "inference_mode": True, "lora_bias": affine,
    }  # fmt: skip
    write_json(folder / "adapter_config.json", config)
    return folder
