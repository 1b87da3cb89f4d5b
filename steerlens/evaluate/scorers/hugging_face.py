"""Any sequence classifier of Hugging Face as a scorer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from steerlens.evaluate.scorers.card import Card, heldout
from steerlens.maths.brief import brief
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.models.adapters.context import longest
from steerlens.values.labelled import Labelled

BATCH = 32


@dataclass(frozen=True, eq=False)
class HuggingFaceScorer:
    """The probability of one label of a sequence classifier; made by `hugging_face_scorer`."""

    model: Any
    tokenizer: Any
    label: int
    card: Card

    @torch.inference_mode()
    def scores(self, texts: Sequence[str]) -> Float[np.ndarray, " n"]:
        order = sorted(range(len(texts)), key=lambda k: len(texts[k]))
        found = np.zeros(len(texts))
        config, tokenizer = self.model.config, self.tokenizer
        # the model finds a text's last token by its own idea of padding
        padding = getattr(config, "pad_token_id", None)
        pads = padding is not None and tokenizer.pad_token_id == padding
        size, most = BATCH if pads else 1, longest(self.model, config, tokenizer)
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            given = tokenizer(
                [texts[k] for k in rows],
                padding=pads,
                truncation=True,
                max_length=most,
                return_tensors="pt",
            ).to(self.model.device)
            logits = self.model(**given).logits.double()
            several = logits.shape[1] > 1 and _problem(self.model) != "multi_label_classification"
            p = (logits.softmax(1) if several else logits.sigmoid())[:, self.label]
            found[rows] = p.cpu().numpy()
        return found


@torch_defaults()
def hugging_face_scorer(
    name: str | Path,
    *,
    label: str | None = None,
    measures: str = "",
    data: Labelled | None = None,
    on: str = "texts given",
    device: str = "cpu",
) -> HuggingFaceScorer:
    """Load a sequence classifier, from a folder or by its hub id, as a scorer.

    Its score is the probability of `label`: softmax over the labels, or the sigmoid of its own
    logit where the configuration says multi-label or there is one alone. Weights are read from
    safetensors only, and no code of the repository runs. A folder needs no network. Texts are read
    one at a time where tokenizer and configuration do not pad alike.

    Args:
        label: one of the model's labels; None: its only one, or the last of two.
        measures: what 1 means; by default the label's name.
        data: held-out texts (+1: high) for the card; None: its accuracy is not known, and every
            table says so. On its own training texts a classifier looks better than it is.

    Raises:
        ValueError: a label that the model has not, or no label where it has more than two; a
            regression, whose number is no probability.

    Example:
        >>> hugging_face_scorer("distilbert/distilbert-base-uncased-finetuned-sst-2-english")  # doctest: +SKIP
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    path = Path(name)
    local = path.is_dir()
    where: dict[str, Any] = {"local_files_only": local, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(str(name), **where)
    model = AutoModelForSequenceClassification.from_pretrained(
        str(name), use_safetensors=True, **where
    )
    model = model.to(device).eval()
    if _problem(model) == "regression":
        raise ValueError(
            f"name: {brief(str(name))} is a regression (problem_type), whose numbers are no probabilities; bring them into "
            "[0, 1] as you mean them: steerlens.evaluate.scorers.function_scorer"
        )
    labels = {str(text): int(k) for k, text in model.config.id2label.items()}
    if label is None and len(labels) <= 2:
        label = max(labels, key=labels.__getitem__)
    if label is None or label not in labels:
        raise ValueError(f"label: got {brief(label)}, expected one of {', '.join(labels)}")
    shown = path.name if local else str(name)
    card = Card(shown, measures or f"probability of {label!r}", None)
    found = HuggingFaceScorer(model, tokenizer, labels[label], card)
    if data is None:
        return found
    return replace(found, card=replace(card, heldout=heldout(found, data, on=on)))


def _problem(model: Any) -> str | None:
    return getattr(model.config, "problem_type", None)
