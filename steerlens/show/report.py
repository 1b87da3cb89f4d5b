"""`steerlens report`: a folder with a page, its figures, its numbers and the steers."""

import os
import shutil
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.figure import Figure

from steerlens.analysis.embeddings import components, embedding
from steerlens.models.load import load_model
from steerlens.models.sites import Model, model_id
from steerlens.show.compared import moved, rivals
from steerlens.show.figures import (
    plot_cost,
    plot_gap_closed,
    plot_label_curve,
    plot_losses,
    plot_singular_words,
    plot_written_attribute,
    records,
    save_figure,
)
from steerlens.show.html import Picture
from steerlens.show.page import page
from steerlens.show.reading import plot_spectrum
from steerlens.show.reft import plot_subspaces
from steerlens.show.study import Say, Study, study
from steerlens.show.style import COLUMN, look
from steerlens.show.transfer import legend, plot_transfer
from steerlens.toy import NAMES, corpus
from steerlens.values.files import save, write_bytes, write_json
from steerlens.values.labelled import Labelled

PX = 130
"""Pixels on the page an inch of a figure."""


def write_report(
    model: str,
    out: str | Path,
    *,
    data: Labelled | None = None,
    name: str = "steer",
    texts: int = 2000,
    seed: int = 0,
    overwrite: bool = False,
    say: Say = lambda line: None,
) -> Path:
    """Fit, measure and show; the path of the page.

    The folder gets `index.html` (self-contained), `report.json` (every number), `figures/` (PDF, PNG, JSON) and
    `steers/`. It is built beside `out` and renamed at the end: whatever goes wrong, nothing half-written is left.

    Args:
        model: a name as `load_model` takes it.
        data: labelled texts; None on a toy model for the toy world's, one steer for sentiment and one for tone.
        name: of the steer that is fitted on `data`.
        texts: how many toy texts to fit each steer on.
        overwrite: replace an earlier report; a folder that is something else is never touched.
        say: takes lines of progress.

    Raises:
        ValueError: no data for a model that is not a toy, labels that are all equal, fewer than 20 texts.
        FileExistsError: `out` is there and not empty.
        FileNotFoundError: no such model, or no folder to put `out` in.
    """
    started, out = time.perf_counter(), Path(out)
    _check(model, out, data, overwrite)
    say(f"loading {model}")
    lm = load_model(model)
    studies = list(_studies(lm, data, name, texts, seed, say))
    source = (
        f"{texts:,} texts of the toy world for each steer" if data is None else f"{len(data):,} labelled texts ({name})"
    )
    space = components(embedding(lm), n=6, tokens=8, seed=seed).table
    beyond: dict[str, Any] = {}
    for one in studies[:1]:
        say(f"{one.name}: on another model, and beside edits of hidden states")
        beyond["transfer"] = moved(lm, one, texts, seed) if data is None else None
        beyond["rivals"] = rivals(lm, one, data, texts, seed)
    facts = beyond | {
        "components": records(space),
        "model": model_id(lm),
        "data": source,
        "seed": seed,
        "threads": torch.get_num_threads(),
        "seconds": time.perf_counter() - started,
        "versions": {p: version(p) for p in ("steerlens", "torch", "transformer-lens", "transformers")},
    }
    say("drawing")
    whole = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        write_files(whole, studies, facts)
        whole.chmod(0o755)
        _put(whole, out)
    except BaseException:
        shutil.rmtree(whole, ignore_errors=True)
        raise
    return out / "index.html"


def write_files(folder: Path, studies: list[Study], facts: dict[str, Any]) -> None:
    """All files of a report into an empty folder."""
    pictures = _draw(studies, folder / "figures")
    if facts.get("transfer"):
        pictures["transfer"] = _draw_transfer(facts["transfer"], folder / "figures")
    if facts.get("rivals"):
        pictures["rivals"] = _draw_rivals(facts["rivals"], folder / "figures")
    (folder / "steers").mkdir()
    for one in studies:
        stem = folder / "steers" / _file_name(one.name)
        save(one.fit.value, stem.with_name(f"{stem.name}.safetensors"), report=one.fit.report)
        save(one.fit.background, stem.with_name(f"{stem.name}-background.safetensors"), report=one.fit.report)
    write_json(folder / "report.json", facts | {"steers": {one.name: _numbers(one) for one in studies}})
    write_bytes(folder / "index.html", page(studies, pictures, facts).encode())


def _studies(lm: Model, data: Labelled | None, name: str, texts: int, seed: int, say: Say) -> list[Study]:
    if data is not None:
        train, test = data.split(0.85, seed=seed)
        return [study(lm, train, test, name=name, seed=seed, say=say)]
    found = []
    for attribute in ("sentiment", "tone"):
        train, test = corpus(attribute, n=texts, seed=seed), corpus(attribute, n=max(texts // 4, 20), seed=seed + 1)
        found.append(study(lm, train, test, name=attribute, attribute=attribute, seed=seed, say=say))
    return found


def _draw_transfer(moved: dict[str, Any], folder: Path) -> Picture:
    with look():
        ax = plot_transfer(pd.DataFrame(moved["rules"]), ax=_wide(3.6, 2.6))
        legend(ax.get_figure(root=True), [row["rule"] for row in moved["rules"]])
    width = ax.get_figure(root=True).get_size_inches()[0] * PX
    return save_figure(ax.get_figure(root=True), folder, "transfer", moved)[1].read_bytes(), width


def _draw_rivals(found: dict[str, Any], folder: Path) -> Picture:
    with look():
        fig = plot_subspaces(pd.DataFrame(found["subspaces"]), ax=_wide(4.4, 2.5)).get_figure(root=True)
    width = fig.get_size_inches()[0] * PX
    return save_figure(fig, folder, "rivals", found)[1].read_bytes(), width


def _figures(one: Study) -> dict[str, tuple[Figure, pd.DataFrame]]:
    """Every figure of a steer with its numbers."""
    t, drawn = one.tables, {}

    def add(name: str, ax: plt.Axes, numbers: pd.DataFrame) -> None:
        drawn[name] = (ax.figure, numbers)

    with look():
        add("label_curve", plot_label_curve(t["label_curve"], ax=_wide(5.2, 2.9)), t["label_curve"])
        kl = t["kl"][t["kl"].strength.abs() <= one.strengths[-1]]
        add("cost", plot_cost(kl, t["writing"]), t["writing"].merge(t["kl"], on="strength", how="outer"))
        add("words", _words(t["scores"]), t["scores"])
        add("spectrum", plot_spectrum(one.spectrum, t.get("stability")), one.spectrum.table)
        if "gap" in t:
            written = t["written"].drop(columns=["prompt", "sample"])
            add("written", plot_written_attribute(t["written"], name=one.name, ax=_wide(5.2, 3.6)), written)
            add("gap", plot_gap_closed(t["gap"]), t["gap"])
        else:
            add("losses", plot_losses(t["losses"]), t["losses"])
    return drawn


def _wide(width: float, height: float) -> plt.Axes:
    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def _words(scores: pd.DataFrame) -> plt.Axes:
    """Both sides of the two strongest directions, side by side."""
    fig, axes = plt.subplots(1, 4, sharex=True, figsize=(2.2 * COLUMN, 3.3), layout="constrained")
    for ax, (direction, side) in zip(axes, ((1, "+"), (1, "-"), (2, "+"), (2, "-")), strict=True):
        plot_singular_words(scores, direction=direction, side=side, ax=ax).set_xlabel("")
    fig.supxlabel("score at strength +1", fontsize=8)
    return axes[0]


def _draw(studies: list[Study], folder: Path) -> dict[str, Picture]:
    folder.mkdir()
    pictures = {}
    for one in studies:
        for name, (fig, numbers) in _figures(one).items():
            width = fig.get_size_inches()[0] * PX
            png = save_figure(fig, folder, f"{_file_name(one.name)}-{name}", numbers)[1]
            pictures[f"{one.name}-{name}"] = (png.read_bytes(), width)
    return pictures


def _numbers(one: Study) -> dict[str, Any]:
    """Every number that the page shows of a steer."""
    tables = {name: records(table) for name, table in one.tables.items() if name not in ("scores", "written")}
    if "written" in one.tables:
        groups = one.tables["written"].groupby("strength")
        found = groups.attribute.agg(["mean", "std", "count"]).assign(grammatical=groups.grammatical.mean())
        tables["written"] = records(found.reset_index())
    r = one.fit.report
    speed = r.passes * r.n_positions / max(r.seconds, 1e-9)
    return {
        "fit": r.as_dict(),
        "n_test": one.n_test,
        "strengths": list(one.strengths),
        "seconds": one.seconds,
        "effective_rank": one.spectrum.effective_rank,
        "highlights": [
            {"label": label, "text": str(h), "evidence": h.total, "spans": records(h.spans)}
            for label, h in one.highlights
        ],
        "positions_per_second": speed,
        **tables,
    }


def _check(model: str, out: Path, data: Labelled | None, overwrite: bool) -> None:
    """What can be known to go wrong before any work is done."""
    if data is None and Path(model).name not in NAMES:
        raise ValueError(f"data: {model!r} is not a toy model, so it has no texts of its own; give a file with --data")
    if data is not None and len(data) < 20:
        raise ValueError(f"data: got {len(data)} texts, expected at least 20, better some hundreds")
    if data is not None and len(set(data.labels)) < 2:
        raise ValueError(f"data: every label is {data.labels[0]:g}; a steer needs texts with different labels")
    if not out.resolve().parent.is_dir():
        raise FileNotFoundError(f"out: the folder {out.resolve().parent} does not exist; create it first")
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"out: {out} is a file; choose another name")
    if out.exists() and any(out.iterdir()):
        if not overwrite:
            raise FileExistsError(
                f"out: {out} exists and is not empty; choose another folder, or replace it with --overwrite"
            )
        if not ((out / "report.json").is_file() and (out / "index.html").is_file()):
            raise FileExistsError(f"out: {out} holds no report, so it is not overwritten; choose another folder")


def _put(whole: Path, out: Path) -> None:
    """Rename the finished folder to its place; an earlier report goes only once the new one is there."""
    old = out.with_name(f".{out.name}-old-{os.getpid()}")
    if out.exists():
        out.rename(old)
    try:
        whole.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in name)
