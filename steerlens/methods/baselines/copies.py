"""Copies of a model that are fine-tuned on texts: made once, kept on disk, the model itself never
changed."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from steerlens.maths.numbers import as_count, as_number, as_seed, generator
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.methods.baselines.checks import as_ids, check_enough, check_settings
from steerlens.models.adapters import Model
from steerlens.models.duplicate import duplicate
from steerlens.models.hooks import adapter, convention, eval_mode, model_id
from steerlens.models.readout import readout
from steerlens.models.tokenization import batch_tokens, batches, encode, pad
from steerlens.values.atomic import write_bytes
from steerlens.values.labelled import Labelled
from steerlens.values.paths import as_path
from steerlens.values.texts import as_list, as_texts
from steerlens.values.warn import warn_user

HELDOUT = 0.1
"""Share of the texts by which the epoch is chosen."""


@dataclass(frozen=True)
class FineTuning:
    """Say how a copy is trained: AdamW whose learning rate falls linearly to zero.

    The epoch with the best loss on a held-out tenth of the texts is kept, the untrained copy
    included.

    Args:
        lr: highest learning rate. Large models take 5e-5, toy models 3e-4.
        epochs: most passes over the texts; three in DExperts' sentiment experiments.
        batch_size: texts per step.
        seed: of the order of the texts and of those that are held out.

    Raises:
        ValueError: a number out of range.
    """

    lr: float = 5e-5
    epochs: int = 3
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if as_number(self.lr, "lr", "a number, at least 0") < 0:
            raise ValueError(f"lr: got {self.lr}, expected at least 0")
        # plain numbers, as a copy's file is named by them
        plain = {name: as_count(getattr(self, name), name) for name in ("epochs", "batch_size")}
        for name, value in {"lr": float(self.lr), "seed": as_seed(self.seed), **plain}.items():
            object.__setattr__(self, name, value)


USUAL = FineTuning()


@torch_defaults()
def fine_tuned_copy(
    model: Model,
    texts: Labelled | Iterable[str],
    *,
    leads: Sequence[Sequence[int]] = (),
    tuning: FineTuning = USUAL,
    folder: str | Path | None = None,
) -> Model:
    """Return a copy of a model that was fine-tuned on texts, all of its parameters.

    Dropout is off, whatever mode the model is in, so that a seed makes one copy. Parameters that are
    frozen in the model are trained in the copy, and frozen again in what is returned.

    Args:
        model: of TransformerLens or of Hugging Face, in float32; unchanged.
        texts: what the copy is to write; of labelled ones the prompts are only read, and the labels
            do not count.
        leads: tokens that each text is read behind, e.g. a control code; () for none.
        tuning: learning rate, epochs, batch size, seed.
        folder: where copies are kept; one that was made of the same model, texts and settings is
            read instead of trained. None: nothing is kept.

    Warns:
        UserWarning: no epoch was better than the model itself, of which the copy is then one.

    Raises:
        ValueError: fewer than four texts with something to predict, another number of leads, leads
            that leave no room in the context, a model that is not in float32.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> texts = [text for text, tone in sl.toy.corpus("tone", n=200, seed=0) if tone > 0]
        >>> copy = fine_tuned_copy(model, texts, tuning=FineTuning(lr=3e-4, epochs=2, batch_size=8))
        >>> torch.equal(copy.W_U, model.W_U)
        False
    """
    check_settings(tuning, "tuning", USUAL)
    kept = None if folder is None else as_path(folder, "folder", "the path of a folder")
    if adapter(model).W_U.dtype != torch.float32:
        raise ValueError(
            f"model: its weights are {adapter(model).W_U.dtype}, in which small steps are lost; load it with dtype='float32'"
        )
    rows, read = _tokens(model, texts, leads)
    path = None
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        path = kept / f"copy-{_identity(model, rows, read, tuning)}.safetensors"
    made = duplicate(model)
    if path is not None and path.exists():
        _restore(made, load_file(path))
        return made
    _train(made, rows, read, tuning)
    if path is not None:
        about = {"model_id": model_id(model), "n_texts": str(len(rows)), **_as_text(tuning)}
        write_bytes(path, to_bytes(_weights(made), metadata=about))
    return made


def _tokens(
    model: Model, texts: Labelled | Iterable[str], leads: Sequence[Sequence[int]]
) -> tuple[list[list[int]], list[int]]:
    """Return the tokens of each text behind its lead, and how many are only read; of those texts
    that have something to predict."""
    labelled = isinstance(texts, Labelled)
    content = list(texts.texts) if labelled else as_texts(texts)
    how = convention(model, readout(model))
    before = [as_ids(lead, "leads", readout(model).n_tokens) for lead in as_list("leads", leads)]
    most = max((len(lead) for lead in before), default=0)
    if (before and len(before) != len(content)) or most + 2 > how.n_ctx:
        raise ValueError(
            f"leads: got {len(before)} of up to {most} tokens, expected one for each of {len(content)} texts, or none, and "
            f"room for a text in a context of {how.n_ctx}"
        )
    encoded = encode(
        adapter(model).tokenizer,
        content,
        how._replace(n_ctx=how.n_ctx - most),
        end=True,
        prompts=texts.prompts if labelled else (),
    )
    bos = int(how.bos)
    rows, read = [], []
    for k, (ids, n) in enumerate(zip(encoded.ids, encoded.prompt, strict=True)):
        lead = before[k] if before else ()
        if encoded.predicted(k):
            rows.append([*ids[:bos], *lead, *ids[bos:]])
            read.append(n + len(lead))
    check_enough(len(rows), "texts", "with something to predict")
    return rows, read


def _train(model: Model, rows: list[list[int]], read: list[int], tuning: FineTuning) -> None:
    """Train a copy in place, and leave its modes and what is frozen in it as they were."""
    device = adapter(model).W_U.device
    frozen = [p for p in _learned(model) if not p.requires_grad]
    for p in frozen:
        p.requires_grad_(True)
    # whatever else than dropout draws while a model runs, the global generator is left as it was
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(tuning.seed)
        _descend(model, rows, read, tuning)
    for p in frozen:
        p.requires_grad_(False)


def _learned(model: Model) -> list[nn.Parameter]:
    return [p for p in adapter(model).module.parameters() if p.is_floating_point()]


def _descend(model: Model, rows: list[list[int]], read: list[int], tuning: FineTuning) -> None:
    random = generator(tuning.seed)
    order = torch.randperm(len(rows), generator=random).tolist()
    cut = max(round(HELDOUT * len(rows)), 1)
    heldout, fitting = order[:cut], order[cut:]
    adam = torch.optim.AdamW(_learned(model), lr=tuning.lr, weight_decay=0.0)
    total = tuning.epochs * -(-len(fitting) // tuning.batch_size)
    falling = torch.optim.lr_scheduler.LambdaLR(adam, lambda k: 1 - k / total)
    best = before = _heldout(model, rows, read, heldout)
    kept = _weights(model)
    for _ in range(tuning.epochs):
        shuffled = [fitting[i] for i in torch.randperm(len(fitting), generator=random).tolist()]
        for start in range(0, len(shuffled), tuning.batch_size):
            some = shuffled[start : start + tuning.batch_size]
            adam.zero_grad()
            predicted = sum(len(rows[k]) - read[k] for k in some)
            # part by part: one long text pads all others, and a real vocabulary's logits of all of
            # them take gigabytes
            for batch in _batches(model, rows, some):
                with eval_mode(model), torch.enable_grad():
                    (_nll(model, rows, read, batch) / predicted).backward()
            adam.step()
            falling.step()
        loss = _heldout(model, rows, read, heldout)
        if loss < best:
            best, kept = loss, _weights(model)
    adam.zero_grad()
    _restore(model, kept)
    if best == before:
        warn_user(
            f"fine_tuned_copy: nothing was learnt. After none of {tuning.epochs} epochs are {len(heldout)} held-out texts "
            f"better predicted than by the model itself, which is what you get ({len(fitting)} texts, lr {tuning.lr:g}). "
            "Give it more texts, or another learning rate: tuning=FineTuning(lr=…)"
        )


def _nll(model: Model, rows: list[list[int]], read: list[int], some: Sequence[int]) -> Tensor:
    """Return the summed NLL of some texts behind what is only read, in nats."""
    found = adapter(model)
    tokens, mask = (t.to(found.W_U.device) for t in pad([rows[k] for k in some]))
    logits = found.logits(tokens, mask)[:, :-1]
    start = torch.tensor([read[k] for k in some], device=tokens.device)[:, None]
    place = torch.arange(1, tokens.shape[1], device=tokens.device)
    real = mask[:, 1:].bool() & (place >= start)
    return cross_entropy(logits[real].float(), tokens[:, 1:][real], reduction="sum")


def _heldout(model: Model, rows: list[list[int]], read: list[int], some: list[int]) -> float:
    with eval_mode(model), torch.no_grad():
        return sum(float(_nll(model, rows, read, batch)) for batch in _batches(model, rows, some))


def _batches(model: Model, rows: list[list[int]], some: list[int]) -> list[list[int]]:
    """Return some texts in batches that fit into memory, by length."""
    parts = batches([len(rows[k]) for k in some], batch_tokens(adapter(model).W_U))
    return [[some[i] for i in part] for part in parts]


def _weights(model: Model) -> dict[str, Tensor]:
    """Return copies of a model's parameters; one that has two names is there once."""
    return {
        name: p.detach().cpu().clone().contiguous()
        for name, p in adapter(model).module.named_parameters()
    }


@torch.no_grad()
def _restore(model: Model, weights: dict[str, Tensor]) -> None:
    for name, p in adapter(model).module.named_parameters():
        p.copy_(weights[name])


def _identity(model: Model, rows: list[list[int]], read: list[int], tuning: FineTuning) -> str:
    """Return a name for what a copy is made of."""
    seen = hashlib.blake2b(json.dumps([rows, read, asdict(tuning)]).encode(), digest_size=12)
    for name, p in adapter(model).module.named_parameters():
        seen.update(name.encode())
        seen.update(p.detach().cpu().contiguous().numpy().data)
    return seen.hexdigest()


def _as_text(tuning: FineTuning) -> dict[str, str]:
    return {name: str(value) for name, value in asdict(tuning).items()}
