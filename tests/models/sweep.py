"""Try the laws on a tiny random model of every causal family of transformers, and write the page.

    python -m tests.models.sweep docs/models.md             # all families, some twenty minutes
    python -m tests.models.sweep docs/models.md gpt2 mamba  # these anew, the others as they were

What was found lies beside the page as JSON. Nothing is downloaded and nothing installed: a library
that wants to is refused, and its family is named as one that was not tried.
"""

import copy
import json
import logging
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ |= {
    "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
    "PIP_NO_INDEX": "1", "UV_OFFLINE": "1", "UV_NO_INDEX": "1", "OMP_NUM_THREADS": "1",
}  # fmt: skip

import torch
import transformers

import steerlens as sl
from steerlens.models.adapters import HuggingFace
from steerlens.models.hooks import adapter
from tests.models.families import FAMILIES, model_of
from tests.models.laws import prompts_read, verdicts
from tests.models.zoo import tokenizer

SECONDS, PARAMETERS = 120, 3_000_000
COSTLY = ("distilled",)
"""Laws that are tried on the plain model in float32 alone."""
KINDS = ("soft", "deep", "kv")
HALVES = ("bfloat16", "float16")
PARTS = ("plain", *HALVES, "other tie", "loaded", "bridge")
UNKNOWN = "Could not determine supported architecture"
Found = dict[str, Any]


CAUSES = {
    "xlstm": "its own forward pass multiplies float32 by half precision there.",
    "youtu": "transformers sets the pad token's row of the embeddings to 0 at each load, whatever the file holds.",
}
"""What was found to be behind it."""


def main(page: Path, families: list[str]) -> None:
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
    store = page.with_suffix(".json")
    known: dict[str, Found] = json.loads(store.read_text()) if store.exists() else {}
    for family in families or FAMILIES:
        known[family] = _within(SECONDS, lambda family=family: _try(family))
        print(family, _line(known[family]), flush=True)
        store.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")
    page.write_text(_page(known), encoding="utf-8")


def _within(seconds: int, work: Callable[[], Found]) -> Found:
    """What some work gives, or that it could not be done."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"not done in {seconds} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        return work()
    except Exception as error:  # whatever a family's code raises: it is recorded
        return {"not tried": _short(f"{type(error).__name__}: {error}")}
    finally:
        signal.alarm(0)


def _try(family: str) -> Found:
    words = tokenizer("bytes")
    model = model_of(family)
    if sum(p.numel() for p in model.parameters()) > PARAMETERS:
        return {"not tried": "no small model is made by sizes alone"}
    found: Found = {"class": type(model).__name__}
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        words.save_pretrained(folder)
        plain = HuggingFace(model, words)
        found["plain"] = verdicts(plain)
        found["layers"] = "blocks.0.hook_resid_post" in plain.hook_names
        if found["plain"]["readout"]:
            return found
        found["prompts"] = prompts_read(plain)
        for half in HALVES:
            coarse = HuggingFace(copy.deepcopy(model).to(getattr(torch, half)), words)
            found[half] = verdicts(coarse, leave_out=COSTLY)
        found["other tie"] = _tied_otherwise(family, model)
        found["loaded"] = _loaded(folder, plain)
        found["bridge"], by_bridge = _bridge(folder, plain)
        found["prompts"] = [k for k in KINDS if k in (*found["prompts"], *by_bridge)]
    return found


def _tied_otherwise(family: str, model: Any) -> Found | str:
    """The same family with its embeddings tied where they were not, or untied."""
    usual = getattr(model.config.get_text_config(decoder=True), "tie_word_embeddings", None)
    try:
        other = model_of(family, tie_word_embeddings=not usual)
    except Exception as error:  # not every head can be tied
        return _short(f"not made: {type(error).__name__}")
    return verdicts(HuggingFace(other, tokenizer("bytes")), leave_out=COSTLY)


def _loaded(folder: str, plain: HuggingFace) -> str:
    """Whether the model that is saved and loaded is the same."""
    try:
        again = sl.load_model(folder, plain=True)
    except (ValueError, OSError, KeyError) as error:
        return _short(str(error))
    return "" if sl.readout(again).same_as(sl.readout(plain)) else "another read-out"


def _bridge(folder: str, plain: HuggingFace) -> tuple[Found | str, list[str]]:
    """What TransformerLens makes of it, and the kinds of prompts that can be had there."""
    try:
        bridge = sl.load_model(folder)
    except Exception as error:  # of the many ways in which a family can be unknown
        return _short(f"{type(error).__name__}: {error}"), []
    found = verdicts(bridge, leave_out=COSTLY)
    if not found["readout"] and not sl.readout(bridge).same_as(sl.readout(plain)):
        found["readout"] = "another read-out than the plain model's"
    if adapter(bridge).prepends_bos != plain.prepends_bos:
        found["begin-of-text"] = "where the plain model has another beginning"
    return found, [] if found["readout"] else prompts_read(bridge)


def _short(text: str) -> str:
    line = " ".join(text.replace("|", "/").split())
    return line if len(line) <= 160 else line[:159] + "…"


def _broken(found: Found | str) -> list[str]:
    if isinstance(found, str):
        return [found] if found else []
    said = {law: why.removeprefix(f"{law}: ") for law, why in found.items() if law != "habits"}
    return [_short(f"{law}: {why}") for law, why in said.items() if why]


def _line(found: Found) -> str:
    if "not tried" in found:
        return f"not tried: {found['not tried']}"
    parts = [name for name in PARTS if name in found]
    return "; ".join(f"{name}: {', '.join(_broken(found[name])) or 'ok'}" for name in parts)


def _mark(found: Found | str | None) -> str:
    """A cell: all laws hold, the read-out is refused, or what does not hold."""
    if found is None:
        return ""
    broken = _broken(found)
    if not broken:
        return "yes"
    if isinstance(found, str):
        return "–"
    return "refused" if found.get("readout") else "; ".join(law.split(":")[0] for law in broken)


def _page(known: dict[str, Found]) -> str:
    tried = {name: found for name, found in known.items() if "not tried" not in found}
    good = [n for n, f in tried.items() if not _broken(f["plain"])]
    refused = [n for n, f in tried.items() if f["plain"].get("readout")]
    bridged = [n for n in good if isinstance(tried[n].get("bridge"), dict)]
    held = [n for n in bridged if not _broken(tried[n]["bridge"])]
    lines = [
        "# Models",
        "",
        "Written by `python -m tests.models.sweep docs/models.md`; not to be edited by hand. With "
        + ", ".join(f"{p} {version(p)}" for p in ("torch", "transformers", "transformer-lens"))
        + ", on the CPU.",
        "",
        f"Of {len(known)} causal families of transformers, a tiny random model of {len(tried)} was "
        f"made from its configuration ({len(known) - len(tried)} were not, see below). As plain "
        f"Hugging Face models {len(good)} keep every law, {len(refused)} are refused by `readout` "
        f"with a reason. TransformerLens loads {len(bridged)} of them, and {len(held)} keep every "
        "law through its bridge too.",
        "",
        "The laws: the model's logits, plain and steered with a strength per row, are those "
        "computed by hand from its own `W_U`, `b_U`, scale and soft cap; strength 0 is the plain "
        "model bit for bit; what is written in a batch, with cache and padding where they are used, "
        "and its log-probability, are those of whole passes over each prompt alone; a text scored "
        "in a batch is the text alone; gradients reach an edit at the unembedding and between "
        "layers, and never the model's own numbers; a steer is fitted; moved to the same words in "
        "another basis and back it adds what it added, and read off texts it is found again "
        "(in float32, plain); nothing is left in the model. The vocabulary has rows of padding.",
        "",
        "*cache* and *padding*: whether `generate` uses the model's cache, and pads prompts on the left (what is not used was "
        "found to change the logits; prompts of one length then go together). *layers*: whether there are hooks between layers "
        "(for ReFT, deep prompts, mean difference). *prompts*: the kinds whose rows the model reads as the tokens that they "
        "stand for (kv through TransformerLens); others are refused. *tie*: the same with embeddings tied where they usually are "
        "not, or untied; – where the family has no such model. *bridge*: through TransformerLens; – where it does not load the "
        "family or is refused because its logits are not the model's.",
        "",
        "| family | class | plain | cache | padding | layers | prompts | bfloat16 | float16 | tie | bridge |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in sorted(tried.items()):
        habit = found["plain"].get("habits", "")
        cells = [
            name,
            f"`{found['class']}`",
            _mark(found["plain"]),
            *(
                ("yes" if f"{way}=True" in habit else "no") if habit else ""
                for way in ("caches", "pads")
            ),
            "yes" if found["layers"] else "no",
            ", ".join(found.get("prompts", ())),
            *(_mark(found.get(part)) for part in (*HALVES, "other tie", "bridge")),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    unknown = [n for n, f in sorted(tried.items()) if UNKNOWN in str(f.get("bridge"))]
    lines += ["", "## What does not hold, and why", ""]
    lines += [f"TransformerLens does not know {len(unknown)} of them: {', '.join(unknown)}.", ""]
    for name, found in sorted(tried.items()):
        found = {part: why for part, why in found.items() if UNKNOWN not in str(why)}
        for part in PARTS:
            lines += [f"- **{name}**, {part}: {why}" for why in _broken(found.get(part, ""))]
    lines += ["", *(f"- **{name}**: {cause}" for name, cause in CAUSES.items() if name in tried)]
    lines += ["", "## Not tried", ""]
    lines += [f"- **{n}**: {f['not tried']}" for n, f in sorted(known.items()) if "not tried" in f]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
