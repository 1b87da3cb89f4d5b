"""One file per library whose models steerlens takes."""

from steerlens.models.adapters.hugging_face import HuggingFace as HuggingFace
from steerlens.models.adapters.protocol import Adapter as Adapter
from steerlens.models.adapters.protocol import Model as Model
from steerlens.models.adapters.transformer_lens import TransformerLens as TransformerLens

__all__ = ["Adapter", "HuggingFace", "Model", "TransformerLens"]
