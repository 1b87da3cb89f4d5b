"""Language models: load one, read its states and its read-out, steer it, write and score with it.

The only package that knows the libraries models come from. `HuggingFace` pairs a plain Hugging Face
model with a tokenizer; every verb takes it, the model alone, or a model of TransformerLens.
`collect_parts` reads texts in many processes or on many machines, `stream_labelled` gives it texts
that do not fit into memory, and `read_states` returns what it left in a folder.

Example:
    >>> import steerlens as sl
    >>> sl.models.HuggingFace.__name__
    'HuggingFace'
"""

from steerlens.lazy import lazily

__getattr__, __dir__ = lazily(
    __name__,
    {
        "HuggingFace": "adapters",
        "collect_parts": "parts",
        "read_states": "parts",
        "stream_labelled": "parts",
    },
)
