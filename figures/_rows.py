"""Rows of a long study, each of which is kept when it is done, so that an interrupted run goes on.
Imported after `_setting`."""

import json
from collections.abc import Callable, Iterable
from typing import Any

from _setting import OUT

import pandas as pd


def kept_rows(
    study: str, keys: Iterable[dict[str, Any]], measure: Callable[..., dict[str, Any]]
) -> pd.DataFrame:
    """Return a row per key, key and measurement side by side.

    Rows that figures/out/STUDY.rows.jsonl has are read from there, the others are measured.
    """
    file = OUT / f"{study}.rows.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    done, rows = [json.loads(line) for line in lines], []
    for key in keys:
        row = next((row for row in done if key.items() <= row.items()), None)
        if row is None:
            row = key | measure(**key)
            with file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(row) + "\n")
            # a table is for the figure to show
            print({k: v for k, v in row.items() if not isinstance(v, list)}, flush=True)
        rows.append(row)
    return pd.DataFrame(rows)
