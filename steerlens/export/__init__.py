"""The steer leaves the lab: logits alone, plain checkpoints, adapters, servers, the hub.

`logit_steer` makes a steer that needs nothing but logits. What puts one to work has a module of its
own with one function `processor`: `hugging_face`, `llama_cpp`, `vllm`, `sglang`; `inspect_ai` is
a provider for Inspect's tasks. `fold` and `lora`
write weights, `rebase` carries a steer between versions of the same weights, `import_lm_steer` and
`export_lm_steer` know the files of the authors of LM-Steer, and `hub` keeps steers with a card.

Example:
    >>> import steerlens as sl
    >>> "hugging_face" in dir(sl.export), sl.export.logit_steer.__name__
    (True, 'logit_steer')
"""

from typing import Any

from steerlens.lazy import load_module

ROOMS = ("hub", "hugging_face", "inspect_ai", "llama_cpp", "sglang", "vllm")
_HOME = {
    "LogitSteer": "values.logit_steer",
    "export_lm_steer": "export.authors",
    "fold": "models.fold",
    "import_direction": "export.authors",
    "import_lm_steer": "export.authors",
    "load_logit_steer": "values.logit_steer",
    "logit_steer": "export.logits",
    "lora": "models.lora",
    "rebase": "export.versions",
    "rebase_affine": "export.versions",
}
__all__ = sorted((*ROOMS, *_HOME))  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in ROOMS:
        return load_module(f"{__name__}.{name}")
    if name not in _HOME:
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}"
        )
    return getattr(load_module(f"steerlens.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
