"""How benchmarks measure: ways take turns, numbers are held against targets, tables and files say so."""

import pytest

from benchmarks import _measure as m

WHERE = m.Setting(False, 2, "a processor", "3.11", "2.9", "4.0", "2.0")


def line(key: str = "a", *, value: float = 2.0, skipped: str = "") -> m.Line:
    ratios = (
        ()
        if skipped
        else (m.number("times faster", [value, value + 1, value + 2], least=3.0), m.number("tokens", [1e4]))
    )
    return m.Line(
        key, "fit", "recipe", "one pass | none", "≥ 3 ×", "d 64", ratios, {"fit": (1.0, 1.0, 1.0)}, skipped=skipped
    )


def test_ways_take_turns_and_what_warms_up_is_not_counted() -> None:
    ticks, order = iter(range(1_000)), []
    ways = {name: lambda name=name: order.append(name) for name in "AB"}
    seconds = m.alternate(ways, 3, warm=2, clock=lambda: next(ticks))
    assert "".join(order) == "ABABABABAB"
    assert seconds == {"A": [1, 1, 1], "B": [1, 1, 1]}


def test_a_ratio_is_taken_round_by_round() -> None:
    slow, fast = [2.0, 20.0, 6.0], [1.0, 10.0, 2.0]  # the machine was ten times slower in the second round
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
    full, quick = m.record(line(value=4.0), WHERE), m.record(line(value=1.0), WHERE._replace(quick=True))
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
