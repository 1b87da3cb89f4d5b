"""What no plot can draw is refused by the name of the argument."""

import inspect
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch

import steerlens.show as show
from steerlens.values.readout import Readout
from steerlens.values.steer import Steer
from tests.show.drawn import CLUSTERS, SCORES, STEPS, SUBSPACES, TEXTS

STEER = Steer(torch.eye(2), Readout(torch.eye(2), torch.zeros(2), ("a", "b")), "joy")


@pytest.mark.parametrize(
    "name", ["continuations", *sorted(n for n in dir(show) if n.startswith("plot_"))]
)
def test_what_is_no_table_of_its_kind_is_refused(name: str, unchecked):
    plot = getattr(show, name)
    parameters = inspect.signature(plot).parameters.values()
    asked = [p.name for p in parameters if p.default is p.empty]
    for wrong in (3, None, STEER, pd.DataFrame(), pd.DataFrame({"strength": [1.0]})):
        with pytest.raises(ValueError, match=f"^({'|'.join(asked)}): (got|it has)"):
            plot(**dict.fromkeys(asked, wrong))
    assert not plt.get_fignums()


@pytest.mark.parametrize(
    ("name", "table", "arguments", "message"),
    [
        ("plot_singular_words", SCORES, {"side": "left"}, r"side: got 'left', expected one of '\+'"),
        ("plot_singular_words", SCORES, {"direction": 9}, r"direction: got 9, expected one of \[1\]"),
        ("plot_subspaces", SUBSPACES, {"value": "mean"}, "value: got 'mean'"),
        ("plot_clusters", CLUSTERS, {"measure": "rand"}, "measure: got 'rand'"),
        ("plot_clusters", CLUSTERS, {"points": "words"}, "points: got 'words'"),
        ("plot_steps", STEPS, {"statistic": "size"}, "statistic: got 'size'"),
        ("plot_text_strengths", TEXTS, {"names": ["one"]}, "names: got 1, expected one for each of the 2"),
        ("plot_text_strengths", TEXTS, {"names": [1, 2]}, r"names\[0\]: got int"),
    ],
)  # fmt: skip
def test_what_cannot_be_chosen_is_refused(name, table, arguments, message, unchecked):
    with pytest.raises(ValueError, match=message):
        getattr(show, name)(table, **arguments)


def test_texts_without_curves_cannot_be_drawn():
    without = TEXTS.__class__(TEXTS.name, TEXTS.table, TEXTS.tokens, TEXTS.token_curve.head(0))
    with pytest.raises(ValueError, match=r"found: it has no curves, .*strengths=\(-2, 0, 2\)"):
        show.plot_text_strengths(without)


def test_what_was_written_empty_is_shown_so_from_a_file_too(tmp_path: Path) -> None:
    table = pd.DataFrame({"prompt": "a", "strength": [0.0, 1.0], "sample": 0, "text": ["", " b"]})
    table.to_csv(tmp_path / "written.csv", index=False)
    again = show.continuations(pd.read_csv(tmp_path / "written.csv"))
    assert again == show.continuations(table) == "a\n   0  (ends here)\n  +1  b"
