"""How benchmarks measure: ways take turns, numbers are held against targets, tables and files say
so."""

import math
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch

import steerlens as sl
from benchmarks import _measure as m
from benchmarks import _recipe as r
from steerlens.evaluate.losses import measure
from steerlens.methods.baselines import lm_steer_recipe as recipes

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
WHERE = m.Setting(False, 2, "a processor", "3.11", "2.9", "4.0", "2.0")


def line(key: str = "a", *, value: float = 2.0, skipped: str = "") -> m.Line:
    ratios = (
        ()
        if skipped
        else (
            m.number("times faster", [value, value + 1, value + 2], least=3.0),
            m.number("tokens", [1e4]),
        )
    )
    return m.Line(
        key,
        "fit",
        "recipe",
        "one pass | none",
        "≥ 3 ×",
        "d 64",
        ratios,
        {"fit": (1.0, 1.0, 1.0)},
        skipped=skipped,
    )


def test_ways_take_turns_and_what_warms_up_is_not_counted() -> None:
    ticks, order = iter(range(1_000)), []
    ways = {name: lambda name=name: order.append(name) for name in "AB"}
    seconds = m.alternate(ways, 3, warm=2, clock=lambda: next(ticks))
    assert "".join(order) == "ABABABABAB"
    assert seconds == {"A": [1, 1, 1], "B": [1, 1, 1]}


def test_a_ratio_is_taken_round_by_round() -> None:
    slow, fast = (
        [2.0, 20.0, 6.0],
        [1.0, 10.0, 2.0],
    )  # the machine was ten times slower in the second round
    assert m.ratio("", slow, fast)[1:4] == (2.0, 2.0, 2.5)
    assert m.quartiles([7.0]) == (7.0, 7.0, 7.0)


@pytest.mark.parametrize("value, met", [(1.0, False), (2.0, True)])
def test_a_line_is_met_when_all_its_targets_are(value: float, met: bool) -> None:
    found = line(value=value)
    assert found.met is met  # the median of value … value + 2 against 3
    assert [r.met for r in found.ratios] == [met, None]
    assert m.unjudged(found).met is None
    assert line(skipped="no model").met is None


def test_a_table_shows_medians_quartiles_and_verdicts() -> None:
    rows = m.table([line(value=1.0), line(value=4.0), line(skipped="no model")]).splitlines()
    assert len({row.replace("\\|", "").count("|") for row in rows}) == 1
    assert "times faster 2 [1.5, 2.5]; tokens 10,000 | **missed** |" in rows[2]
    assert rows[3].endswith("| met |") and "skipped: no model | – |" in rows[4]
    brief = m.table([line(value=1.0), m.unjudged(line())], brief=True).splitlines()
    assert "times faster 2 [1.5, 2.5] | **missed** |" in brief[2] and "tokens" not in "".join(brief)


def test_records_are_lines_again_and_worse_ones_do_not_replace_better_ones() -> None:
    full, quick = (
        m.record(line(value=4.0), WHERE),
        m.record(line(value=1.0), WHERE._replace(quick=True)),
    )
    assert m.from_record(full) == line(value=4.0)
    assert m.merge({"a": full}, [quick]) == {"a": full}
    assert m.merge({"a": full}, [m.record(line(skipped="no model"), WHERE)]) == {"a": full}
    assert m.merge({"a": quick}, [full])["a"] is full
    assert list(m.merge({"a": full}, [m.record(line("b"), WHERE)])) == ["a", "b"]


def test_results_are_written_in_order_and_read_again(tmp_path) -> None:
    found = {key: m.record(line(key), WHERE) for key in "ba"}
    m.write_results(found, ["a", "b"], tmp_path / "results.json")
    again = m.read_results(tmp_path / "results.json")
    assert list(again) == ["a", "b"]
    assert "2 threads, a processor, torch 2.9" in m.block(again)


def test_the_table_goes_between_its_marks_and_nowhere_else() -> None:
    text = f"before\n{m.OPEN}\nold\n{m.CLOSE}\nafter"
    assert m.into(text, "new") == f"before\n{m.OPEN}\n\nnew\n\n{m.CLOSE}\nafter"
    assert m.into(m.into(text, "new"), "new") == m.into(text, "new")
    for broken in ("no marks", m.CLOSE + m.OPEN, text + text):
        with pytest.raises(ValueError, match="expected one"):
            m.into(broken, "new")


# ---- the authors' training ----


def trained_plainly(
    model: object, data: sl.Labelled, how: recipes.Recipe, steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Train one text at a time by the model's own loss; return `W` before and after."""
    random, d = torch.Generator().manual_seed(3), model.cfg.d_model
    shapes, scale = (
        ([(2, d, 1000)] * 2, 1e-2) if how.form == "factors" else ([(2, d, d)], math.sqrt(1e-3))
    )
    P = [torch.nn.Parameter(scale * torch.randn(shape, generator=random)) for shape in shapes]
    adam = torch.optim.Adam(P, lr=how.lr, weight_decay=2 * how.l2)
    ids, order = r.token_ids(model, data), []

    def along(c: torch.Tensor, which: int) -> torch.Tensor:
        return 1e-3 * (c @ P[0][which] @ P[1][which].T if len(P) == 2 else c @ P[0][which])

    before = along(torch.eye(d), 0).detach()
    for _ in range(steps):
        order = order or list(torch.randperm(len(data), generator=random).split(32))
        rows = order.pop(0).tolist()
        total = sum(len(ids[row]) - 1 for row in rows)
        for row in rows:
            y = data.labels[row]
            steered = ("unembed.hook_in", lambda c, hook, y=y: c + y * along(c, 0) + along(c, 1))
            with model.hooks(fwd_hooks=[steered]):
                loss = model(torch.tensor([ids[row]]), return_type="loss")
            (loss * (len(ids[row]) - 1) / total).backward()
        adam.step()
        adam.zero_grad()
    return before, along(torch.eye(d), 0).detach()


@pytest.mark.parametrize("how", [recipes.OFFICIAL, recipes.OF_PAPER])
def test_the_recipe_is_the_authors_training_through_the_model_and_through_states(
    how: recipes.Recipe,
) -> None:
    model, data = (
        sl.load_model("toy-64"),
        sl.toy.corpus("sentiment", n=40, seed=0),
    )  # batches of 32, 8, 32
    before, expected = trained_plainly(model, data, how, 3)
    moved = expected - before
    assert moved.norm() > 0.5 * expected.norm()  # a training that did nothing would be far off
    for loss in (
        r.through_model(model, data),
        recipes.through_states(sl.collect(model, data, progress=False)),
    ):
        found, _ = m.take(recipes.training_steps(loss, data, 64, how, seed=3), 3)
        assert (found - expected).norm() < 1e-4 * moved.norm()


def test_factors_start_near_nothing_and_grow() -> None:
    W, full = (
        recipes.matrices(recipes.start(form, 64, torch.Generator().manual_seed(0)))[0].detach()
        for form in ("factors", "matrix")
    )
    assert float(full.std()) == pytest.approx(1e-3 * math.sqrt(1e-3), rel=0.05)
    assert float(W.std()) == pytest.approx(1e-3 * math.sqrt(1000) * 1e-4, rel=0.05)
    model, data = sl.load_model("toy-64"), sl.toy.corpus("sentiment", n=40, seed=0)
    later, _ = m.take(
        recipes.training_steps(
            recipes.through_states(sl.collect(model, data, progress=False)), data, 64, seed=0
        ),
        30,
    )
    assert full.norm() > 5 * W.norm() and later.norm() > 0.1
    assert W.norm() < 1e-3


# ---- quality ----


@pytest.fixture(autouse=True)
def own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts import from their own folder, which Python adds where it starts one."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def quality(own_folder: None) -> ModuleType:
    return import_module("quality")


@pytest.mark.parametrize("name", sorted(path.stem for path in BENCHMARKS.glob("*.py")))
def test_every_module_finds_what_it_imports(name: str) -> None:
    if name == "parallel":
        pytest.importorskip("distributed", reason="the extra cluster is not installed")
    assert import_module(name).__doc__


def test_what_a_fit_works_on_is_told_apart() -> None:
    growth = import_module("growth")
    with growth.Work(5) as work:
        torch.linalg.svd(torch.ones(2, 5) @ torch.ones(5, 7))
        torch.addmm(torch.ones(5), torch.ones(3, 5), torch.ones(5, 5).double().float())
        _ = torch.ones(4) + 1
    assert work.flops == {"float32, d^1": 2 * 2 * 5 * 7, "float32, d^2": 2 * 3 * 5 * 5}
    assert work.calls == {"linalg_svd": 1} and set(work.seconds) == {"float32", "linalg_svd"}


def test_growth_is_a_power_between_neighbours_and_a_whole_fit_the_sum_of_its_kinds_of_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    growth = import_module("growth")

    def made(key: dict, seconds: float, much: int) -> dict:
        work = {"flops": {"float32, d^1": 100 * much}, "calls": {"linalg_svd": 3 * much}}
        return {
            **key,
            **work,
            "seconds": seconds,
            "seconds of": {"float32": 1.0, "linalg_svd": 0.5},
        }

    axis = [key for key in growth.AXES["tokens"] if key["kind"] == "fit"]
    short, fit = ({"d_model": growth.SMALL, "vocabulary": 9, "kind": k} for k in ("short", "fit"))
    found = [
        made(axis[0], 2.0, 1), made(axis[1], 8.0, 1), made(short, 2.0, 1), made(fit, 4.0, 3),
    ]  # fmt: skip
    monkeypatch.setattr(growth, "points", lambda: found)
    assert [power for _, power in growth.exponents("tokens", "fit")] == [None, pytest.approx(1.0)]
    assert not growth.measured_all("tokens")
    assert growth.whole(found[2], growth.SMALL, 9) == {
        "products": pytest.approx(3.0), "decompositions": pytest.approx(1.5), "else": pytest.approx(2.5),
    }  # fmt: skip
    wide = growth.whole(found[2], 2 * growth.SMALL, 9)
    assert wide["products"] == pytest.approx(6.0) and wide["decompositions"] == pytest.approx(12.0)


def test_the_page_on_scale_has_the_tables_that_its_script_makes() -> None:
    sizes = import_module("sizes")
    page = sizes.PAGE.read_text(encoding="utf-8")
    assert m.into(page, sizes.block()) == page


def test_at_equal_kl_a_steer_is_judged_whatever_its_norm(quality: ModuleType) -> None:
    model, data = sl.load_model("toy-64"), sl.toy.corpus("sentiment", n=80, seed=0)
    states, held = (sl.collect(model, part, progress=False) for part in data.split(0.5, seed=0))
    W, D = m.take(
        recipes.training_steps(
            recipes.through_states(states), data.split(0.5, seed=0)[0], 64, seed=0
        ),
        30,
    )
    value, background = sl.Steer(W, held.readout), sl.Steer(D, held.readout)
    once, thrice = (quality.judge(held, quality.Fitted(k * value, background)) for k in (1, 3))
    assert abs(thrice.at_one - once.at_one) > 0.1 * abs(once.at_one)
    assert thrice.margin()[0] == pytest.approx(once.margin()[0], rel=1e-3)
    assert once.strength == pytest.approx(3 * thrice.strength, rel=1e-3)
    alone = held.select(held.labels != 0)
    losses = [measure(alone, s * once.strength * value, background).all for s in (1, -1)]
    assert once.margin()[0] == pytest.approx(losses[1].steered - losses[0].steered, rel=1e-4)
    assert thrice.margin(once)[0] == pytest.approx(0, abs=1e-4)
    harmed = quality.judge(held, quality.Fitted(value, 4 * background))
    assert abs(harmed.margin()[0] - once.margin()[0]) > 0.05 * once.margin()[0]
    assert harmed.alone[0] == pytest.approx(
        once.alone[0], rel=1e-6
    )  # no background, so none makes room
    assert once.alone[0] == pytest.approx(
        quality.judge(held, quality.Fitted(value, 0 * background)).margin()[0], rel=1e-3
    )


def test_a_verdict_takes_the_first_step_that_is_as_good(quality: ModuleType) -> None:
    def row(step: int, margin: float, nll: float) -> dict:
        more = {f"ours more{end}": 0.3 - margin for end in ("", ", low", ", high")}
        times = {
            "seconds": step / 10,
            "seconds on kept states": step / 100,
            "in our time": step == 50,
        }
        return {"step": step, "margin": margin, "NLL": nll, **times, **more}

    ours = {"margin": 0.3, "NLL": 1.0, "seconds": 5.0}
    found = quality.verdict([ours, row(50, 0.1, 1.3), row(100, 0.35, 1.2), row(200, 0.4, 1.1)])
    assert (found["equal margin at step"], found["equal margin, times our seconds"]) == (100, 2.0)
    assert found["equal NLL at step"] is None and found["in our time, ours more"] == pytest.approx(
        0.2
    )
    said = "; ".join(quality.say([found]))
    assert (
        "margin: 1 of 1 draws, by step 100, 2.0 ×" in said and "NLL: not within 200 steps" in said
    )
