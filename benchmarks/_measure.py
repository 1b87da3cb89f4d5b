"""How the benchmarks measure: ways in turn, medians with quartiles, and lines of a table that are
held against targets."""

import json
import platform
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch

from steerlens.maths.logits import multiplies_bfloat16

RESULTS = Path(__file__).parent / "results.json"
OPEN, CLOSE = "<!-- bench -->", "<!-- /bench -->"


class Ratio(NamedTuple):
    """A measured number with its quartiles over the rounds, and what it is asked to be."""

    name: str
    value: float
    low: float
    high: float
    least: float | None = None
    most: float | None = None

    @property
    def met(self) -> bool | None:
        if self.least is None and self.most is None:
            return None
        return (self.least is None or self.value >= self.least) and (
            self.most is None or self.value <= self.most
        )


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Args:
        key: names it in the file of results.
        what, reference, limit, target: as the table shows them.
        sizes: of model and data.
        ratios: measured numbers; those with a target decide whether it is met.
        seconds: of each way, the median and the quartiles.
        note: what bounds the number where that is worth saying.
        skipped: why nothing was measured; empty where something was.
    """

    key: str
    what: str
    reference: str
    limit: str
    target: str
    sizes: str = ""
    ratios: tuple[Ratio, ...] = ()
    seconds: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    note: str = ""
    skipped: str = ""

    @property
    def met(self) -> bool | None:
        """None where nothing was measured, or nothing asked."""
        verdicts = [ratio.met for ratio in self.ratios if ratio.met is not None]
        return None if self.skipped or not verdicts else all(verdicts)


class Setting(NamedTuple):
    """Where and how lines were measured; stored with each."""

    quick: bool
    threads: int
    cpu: str
    python: str
    torch: str
    transformer_lens: str
    numpy: str


def setting(*, quick: bool, threads: int) -> Setting:
    names = ("torch", "transformer-lens", "numpy")
    cpu = cpu_model() + (" with bfloat16" if multiplies_bfloat16(torch.device("cpu")) else "")
    return Setting(quick, threads, cpu, platform.python_version(), *map(version, names))


def cpu_model() -> str:
    """The processor's name; never the machine's."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def alternate(
    ways: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    warm: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each way in each round, the ways in turn: A B A B, so that drifts of the machine
    fall on all alike.

    Args:
        warm: rounds before those that count; the first call pays for memory and caches.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for k in range(warm + rounds):
        for name, run in ways.items():
            begun = clock()
            run()
            if k >= warm:
                seconds[name].append(clock() - begun)
    return seconds


def quartiles(numbers: Sequence[float]) -> tuple[float, float, float]:
    """Median, lower and upper quartile; of one number three times that number."""
    if len(numbers) == 1:
        return (numbers[0],) * 3
    low, middle, high = statistics.quantiles(numbers, n=4, method="inclusive")
    return middle, low, high


def ratio(
    name: str,
    above: Sequence[float],
    below: Sequence[float],
    *,
    least: float | None = None,
    most: float | None = None,
) -> Ratio:
    """Of two ways' seconds, round by round: what they share in a round cancels."""
    return number(name, [a / b for a, b in zip(above, below, strict=True)], least=least, most=most)


def number(
    name: str, values: Sequence[float], *, least: float | None = None, most: float | None = None
) -> Ratio:
    return Ratio(name, *quartiles(values), least, most)


def medians(seconds: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, float, float]]:
    return {name: quartiles(taken) for name, taken in seconds.items()}


def take(steps: Iterable[object], n: int) -> object:
    """The n-th of some steps from here on, after doing all before it."""
    return deque(islice(steps, n), maxlen=1)[0]


# ---- results ----


def record(line: Line, where: Setting) -> dict[str, Any]:
    ratios = [{**r._asdict(), "met": r.met} for r in line.ratios]
    return {**asdict(line), "ratios": ratios, "met": line.met, "setting": where._asdict()}


def from_record(found: Mapping[str, Any]) -> Line:
    ratios = tuple(Ratio(**{name: r[name] for name in Ratio._fields}) for r in found["ratios"])
    seconds = {name: tuple(s) for name, s in found["seconds"].items()}
    texts = {
        name: found[name]
        for name in ("key", "what", "reference", "limit", "target", "sizes", "note", "skipped")
    }
    return Line(**texts, ratios=ratios, seconds=seconds)


def read_results(path: Path = RESULTS) -> dict[str, dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))["lines"] if path.exists() else {}


def merge(
    old: Mapping[str, dict[str, Any]], new: Iterable[dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Lines by key; a new one takes an old one's place, unless it is a quick or a skipped one and
    the old one is neither."""
    merged = dict(old)
    for line in new:
        before = merged.get(line["key"])
        worse = line["setting"]["quick"] or line["skipped"]
        if before is None or not worse or before["setting"]["quick"] or before["skipped"]:
            merged[line["key"]] = line
    return merged


def write_results(
    lines: Mapping[str, dict[str, Any]], order: Sequence[str], path: Path = RESULTS
) -> None:
    """The file of results, in the suite's order."""
    known = {
        key: lines[key]
        for key in sorted(lines, key=lambda k: order.index(k) if k in order else len(order))
    }
    text = json.dumps({"lines": known}, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def unjudged(line: Line) -> Line:
    """The same without targets: small sizes show that things run, and prove nothing about large
    ones."""
    return replace(line, ratios=tuple(r._replace(least=None, most=None) for r in line.ratios))


# ---- tables ----


def show(value: float) -> str:
    """Three digits that can be read: 0.998, 12.3, 1,830."""
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.3g}"


def show_ratio(r: Ratio) -> str:
    spread = f" [{show(r.low)}, {show(r.high)}]" if (r.low, r.high) != (r.value, r.value) else ""
    return f"{r.name} {show(r.value)}{spread}"


def table(lines: Iterable[Line], *, brief: bool = False) -> str:
    """A Markdown table: what, against what, what was asked and what was measured; medians,
    quartiles in brackets.

    Args:
        brief: only the numbers that something is asked of, no notes.
    """
    verdict = {True: "met", False: "**missed**", None: "–"}
    rows = ["| what | reference | limit | target | measured | |", "|---|---|---|---|---|---|"]
    for line in lines:
        what = line.what + (f" ({line.sizes})" if line.sizes else "")
        asked = [r for r in line.ratios if r.met is not None or not brief] or line.ratios[:1]
        measured = f"skipped: {line.skipped}" if line.skipped else "; ".join(map(show_ratio, asked))
        if line.note and line.met is False and not brief:
            measured += f". {line.note}"
        cells = (what, line.reference, line.limit, line.target, measured, verdict[line.met])
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def block(results: Mapping[str, dict[str, Any]]) -> str:
    """The table with a line on how it was measured, as docs/numbers.md shows it."""
    found = list(results.values())
    settings = {Setting(**line["setting"]) for line in found}
    ways = "; ".join(
        f"{s.threads} thread{'s' * (s.threads > 1)}, {s.cpu}, torch {s.torch}"
        + (", quick sizes" if s.quick else "")
        for s in sorted(settings)
    )
    about = (
        f"Medians and quartiles over alternating runs in one process ({ways}); `python benchmarks/run.py` measures all but "
        "the last row anew, `--only vocabulary` that; `benchmarks/results.json` has more numbers, and notes on some."
    )
    return f"{about}\n\n{table(map(from_record, found), brief=True)}"


def into(text: str, inner: str) -> str:
    """A text with what stands between its two marks replaced.

    Raises:
        ValueError: the marks are not there once each, in order.
    """
    before, found, rest = text.partition(OPEN)
    _, closed, after = rest.partition(CLOSE)
    if not found or not closed or OPEN in rest or CLOSE in after:
        raise ValueError(
            f"text: expected one {OPEN} and one {CLOSE} after it, to write the table between them"
        )
    return f"{before}{OPEN}\n\n{inner}\n\n{CLOSE}{after}"
