"""`steerlens report`: a folder with a page, its figures, its numbers and the steers."""

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from markupsafe import Markup

from steerlens.analysis.embeddings import components, embedding
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.methods.files import save, version_of
from steerlens.models.hooks import Model, model_id
from steerlens.models.load import load_model
from steerlens.show.figures import save_figure
from steerlens.show.report.compared import moved, rivals
from steerlens.show.report.drawings import drawn
from steerlens.show.report.page import page
from steerlens.show.report.study import Say, Study, study
from steerlens.show.report.svg import inline_svg
from steerlens.show.report.writing import writing
from steerlens.show.tables import records
from steerlens.toy import NAMES, corpus
from steerlens.values.atomic import write_bytes, write_json
from steerlens.values.labelled import Labelled
from steerlens.values.paths import as_path


@torch_defaults()
def write_report(
    model: str | Model,
    out: str | Path,
    *,
    data: Labelled | None = None,
    name: str = "steer",
    texts: int = 2000,
    seed: int = 0,
    overwrite: bool = False,
    say: Say = lambda line: None,
) -> Path:
    """Fit, measure and show, and return the path of the page.

    The folder gets `index.html` (self-contained), `report.json` (every number), `figures/` (PDF,
    PNG, JSON) and `steers/`. It is built beside `out` and renamed at the end: whatever goes wrong,
    nothing half-written is left.

    Args:
        model: a name as `load_model` takes it, or a model that is loaded already.
        data: labelled texts; None on a toy model for the toy world's, one steer for sentiment and
            one for tone.
        name: of the steer that is fitted on `data`.
        texts: how many toy texts to fit each steer on.
        overwrite: replace an earlier report; a folder that is something else is never touched.
        say: takes lines of progress.

    Raises:
        ValueError: no data for a model that is not a toy, labels that are all equal, fewer than 20
            texts.
        FileExistsError: `out` is there and not empty.
        FileNotFoundError: no such model, or no folder to put `out` in.
    """
    started, out = time.perf_counter(), as_path(out, "out")
    check_report(model if isinstance(model, str) else model_id(model), out, data, overwrite)
    if isinstance(model, str):
        say(f"loading {model}")
    lm = load_model(model) if isinstance(model, str) else model
    studies = list(fit_studies(lm, data, name, texts, seed, say))
    source = (
        f"{texts:,} texts of the toy world per steer"
        if data is None
        else f"{len(data):,} labelled texts ({name})"
    )
    space = components(embedding(lm), n=6, tokens=8, seed=seed).table
    beyond: dict[str, Any] = {}
    # what is no better than noise is not compared with anything
    for one in [one for one in studies if one.doubt is None][:1]:
        say(f"{one.name}: on another model, and beside edits of hidden states")
        beyond["transfer"] = moved(lm, one, texts, seed) if data is None else None
        beyond["rivals"] = rivals(lm, one, data, texts, seed)
        say(f"{one.name}: writing beside rivals at the same cost")
        beyond["writing"] = writing(lm, one, *_parts(data, one.name, texts, seed), seed)
    facts = beyond | {
        "components": records(space),
        "model": model_id(lm),
        "data": source,
        "seed": seed,
        "threads": torch.get_num_threads(),
        "seconds": time.perf_counter() - started,
        "versions": {
            p: version_of(p) for p in ("steerlens", "torch", "transformer-lens", "transformers")
        },
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
    """Write all files of a report into an empty folder."""
    figures = folder / "figures"
    figures.mkdir()
    pictures: dict[str, Markup] = {}
    for name, (fig, alt, numbers) in drawn(studies, facts):
        pictures[name] = inline_svg(fig, name, alt)
        save_figure(fig, figures, _file_name(name), numbers)
    (folder / "steers").mkdir()
    for one in studies:
        stem = folder / "steers" / _file_name(one.name)
        save(one.fit.value, stem.with_name(f"{stem.name}.safetensors"), report=one.fit.report)
        save(
            one.fit.background,
            stem.with_name(f"{stem.name}-background.safetensors"),
            report=one.fit.report,
        )
    write_json(
        folder / "report.json", facts | {"steers": {one.name: _numbers(one) for one in studies}}
    )
    write_bytes(folder / "index.html", page(studies, pictures, facts).encode())


def fit_studies(
    lm: Model, data: Labelled | None, name: str, texts: int, seed: int, say: Say
) -> list[Study]:
    """Return the study of the data, or those of the toy world's two attributes."""
    if data is not None:
        train, test = _parts(data, name, texts, seed)
        return [study(lm, train, test, name=name, seed=seed, say=say)]
    found = []
    for attribute in ("sentiment", "tone"):
        train, test = _parts(None, attribute, texts, seed)
        found.append(
            study(lm, train, test, name=attribute, attribute=attribute, seed=seed, say=say)
        )
    return found


def _parts(data: Labelled | None, name: str, texts: int, seed: int) -> tuple[Labelled, Labelled]:
    """Return the texts that a steer is fitted to and those that it is measured on: of the data, or
    of the toy world's attribute of this name."""
    if data is not None:
        return data.split(0.85, seed=seed)
    sizes = texts, max(texts // 4, 20)
    train, test = (corpus(name, n=n, seed=seed + k) for k, n in enumerate(sizes))  # pyright: ignore[reportArgumentType]
    return train, test


def _numbers(one: Study) -> dict[str, Any]:
    """Return every number that the page shows of a steer, and those that it leaves out."""
    tables = {
        name: records(table)
        for name, table in one.tables.items()
        if name not in ("scores", "written")
    }
    if "written" in one.tables:
        groups = one.tables["written"].groupby("strength")
        found = groups.attribute.agg(["mean", "std", "count"]).assign(
            grammatical=groups.grammatical.mean()
        )
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


def check_report(model: str, out: str | Path, data: Labelled | None, overwrite: bool) -> None:
    """Raise on what can be known to go wrong with a report before any work is done, by the name of
    its model."""
    out = as_path(out, "out")
    if data is None and Path(model).name not in NAMES:
        raise ValueError(
            f"data: {model!r} is not a toy model, so it has no texts of its own; give a file with --data"
        )
    if data is not None and len(data) < 20:
        raise ValueError(f"data: got {len(data)} texts, expected at least 20, better some hundreds")
    if data is not None and len(set(data.labels)) < 2:
        raise ValueError(
            f"data: every label is {data.labels[0]:g}; a steer needs texts with different labels"
        )
    if not out.resolve().parent.is_dir():
        raise FileNotFoundError(
            f"out: the folder {out.resolve().parent} does not exist; create it first"
        )
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"out: {out} is a file; choose another name")
    if out.exists() and any(out.iterdir()):
        if not overwrite:
            raise FileExistsError(
                f"out: {out} exists and is not empty; choose another folder, or replace it with --overwrite"
            )
        if not ((out / "report.json").is_file() and (out / "index.html").is_file()):
            raise FileExistsError(
                f"out: {out} holds no report, so it is not overwritten; choose another folder"
            )


def _put(whole: Path, out: Path) -> None:
    """Rename the finished folder to its place; an earlier report goes only once the new one is
    there."""
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
