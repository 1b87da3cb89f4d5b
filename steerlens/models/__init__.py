"""Language models: load one, read its states and its read-out, steer it, write and score with it.

The only package that knows the libraries models come from. `HuggingFace` pairs a plain Hugging Face
model with a tokenizer; every verb takes it, the model alone, or a model of TransformerLens.

Example:
    >>> import steerlens as sl
    >>> sl.models.HuggingFace.__name__
    'HuggingFace'
"""

from steerlens.lazy import lazily

__getattr__, __dir__ = lazily(__name__, {"HuggingFace": "adapters"})
