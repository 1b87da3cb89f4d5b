"""Every method by its name: each fits, says what it is, and copies are made once."""

from pathlib import Path

import pytest

import steerlens as sl
from steerlens.analysis.recipes import NAMES, Words, recipes
from steerlens.evaluate.price import n_parameters
from steerlens.evaluate.writer import method_of
from steerlens.methods.baselines.copies import FineTuning
from steerlens.methods.baselines.mixture import Mixture

WORDS = Words(codes=("please", "idiots"), instructions=("kindly ,", "you idiots ."))
ONCE = FineTuning(lr=3e-4, epochs=1)
MIXED = ("DAPT", "DExperts", "CTRL", "GeDi", "DExperts, anti-expert")


@pytest.fixture(scope="module")
def data() -> sl.Labelled:
    return sl.toy.corpus("tone", n=60, seed=0)


def test_all_names_are_known_and_come_in_the_order_asked_for(model):
    assert tuple(recipes(model, words=WORDS)) == NAMES
    assert tuple(recipes(model, ("log-odds", "steer"))) == ("log-odds", "steer")


def test_rivals_that_need_the_same_copies_share_them(model, data, tmp_path: Path):
    made = recipes(model, MIXED, words=WORDS, tuning=ONCE, folder=tmp_path)
    kept, found = [], {}
    for name, recipe in made.items():
        found[name] = method_of(recipe(data))
        kept.append(len(list(tmp_path.glob("copy-*"))))
    assert kept == [2, 2, 3, 3, 3]
    assert all(isinstance(value, Mixture) for value in found.values())
    sizes = {name: n_parameters(value) for name, value in found.items()}
    assert {name: size / sizes["CTRL"] for name, size in sizes.items()} == {
        "DAPT": 2, "DExperts": 2, "CTRL": 1, "GeDi": 1, "DExperts, anti-expert": 1
    }  # fmt: skip
    recipes(model, ("GeDi",), words=WORDS, tuning=ONCE, folder=tmp_path, seed=1)["GeDi"](data)
    assert len(list(tmp_path.glob("copy-*"))) == 4  # another seed is another copy


def test_words_that_a_model_does_not_have_are_refused_before_anything_is_fitted(model):
    with pytest.raises(ValueError, match=r"words: 'Reviews Rating 5.0' is not in"):
        recipes(model, ("log-odds", "CTRL"))
    with pytest.raises(ValueError, match="expected some of steer, .*instruction"):
        recipes(model, ("magic",))
    asked = recipes(model, ("instruction",), words=WORDS)["instruction"]
    assert n_parameters(method_of(asked(sl.Labelled(["you are"], [1.0])))) == 0
