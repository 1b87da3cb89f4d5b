"""Prompts, protocols, runs that go on, and their numbers."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import steerlens as sl
from steerlens.evaluate import runs
from steerlens.evaluate.controls import random_steer
from steerlens.evaluate.prompts import read_prompts
from steerlens.evaluate.protocols import PRESETS, Protocol, detoxification, sentiment
from steerlens.evaluate.run_settings import JUDGED, content
from steerlens.evaluate.runs import Entrant, run_protocol, slug
from steerlens.evaluate.scorers import Scorer, function_scorer, oracle, word_list
from steerlens.evaluate.summary import summarize
from steerlens.evaluate.verbs import Sampling, cost_on, given_margins, own_costs, write
from steerlens.evaluate.writer import Writer, check_base
from steerlens.models.hooks import adapter, convention
from steerlens.models.tokenization import encode_prompts
from tests.evaluate.writers import AsWriter

SHORT = Sampling(samples=2, max_new_tokens=6, seed=3)
BASE = Entrant("base", None, 0.0)


@pytest.fixture(scope="module")
def push(model) -> sl.Steer:
    return random_steer(sl.readout(model), seed=1)


@pytest.fixture(scope="module")
def task() -> Protocol:
    prompts = {"neutral": ["it was", "the film was"], "negative": ["my", "the plot", "we saw"]}
    return replace(sentiment(prompts, oracle("sentiment")), sampling=SHORT)


@pytest.fixture(scope="module")
def texts(model, push, task) -> pd.DataFrame:
    return run_protocol(model, [BASE, Entrant("push", push, 0.5)], task, progress=False)


# ---- prompts ----


def test_prompts_in_both_forms_and_only_the_non_toxic_ones(tmp_path: Path):
    rows = [{"prompt": {"text": "So", "toxicity": t}} for t in (0.1, 0.5, 0.2)]
    file = tmp_path / "prompts.jsonl"
    file.write_text(
        "\n\n".join(map(json.dumps, [*rows, {"prompt": {"text": "It", "toxicity": 0}}]))
    )
    assert read_prompts(file) == ("So", "So", "So", "It")
    assert read_prompts(file, below=0.5) == ("So", "So", "It")
    assert read_prompts(file, below=0.5, n=1) == ("So",)
    with pytest.raises(ValueError, match="no prompt with a toxicity below 0"):
        read_prompts(file, below=0.0)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"text": "So"}', r"line 2: no prompt.text \(found text\)"),
        ('{"prompt": {"toxicity": 0.1}}', r"line 2: no prompt.text \(found prompt\)"),
        ("{", "line 2: not JSON"),
        ("[1]", r"line 2: no prompt.text \(found list\)"),
        ('{"prompt": {"text": "So"}}', "line 2: no prompt.toxicity, which below=0.5 asks for"),
        ('{"prompt": {"text": "So", "toxicity": "low"}}', "line 2: prompt.toxicity is 'low'"),
    ],
)
def test_a_faulty_line_is_named(tmp_path: Path, line: str, said: str):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": {"text": "It", "toxicity": 0.1}}\n' + line + "\n")
    with pytest.raises(ValueError, match=said):
        read_prompts(file, below=0.5)


# ---- protocols ----


def test_the_papers_settings_are_one_preset():
    paper = PRESETS["lm-steer"]
    assert paper.n_prompts is None
    assert (paper.sampling.samples, paper.sampling.max_new_tokens, paper.sampling.top_p) == (
        25,
        20,
        0.9,
    )
    many = detoxification(["a"] * 100, oracle("tone", sign=-1), preset="lm-steer", seed=4)
    assert len(many.prompts) == 100 and many.sampling.seed == 4
    assert (many.wanted, many.scored, many.side) == ("low", "text", 1)
    few = sentiment(
        {"neutral": ["a"] * 100, "positive": ["b"] * 3}, oracle("sentiment"), target="negative"
    )
    assert few.kinds == ("neutral",) * 40 + ("positive",) * 3
    assert (few.wanted, few.scored, few.side) == ("low", "whole", -1)


def test_options_that_are_none_are_refused(unchecked):
    scorer = oracle("tone")
    with pytest.raises(ValueError, match="preset: got 'huge', expected one of lm-steer, small"):
        detoxification(["a"], scorer, preset="huge")
    with pytest.raises(ValueError, match="target: got 'joy'"):
        sentiment({"neutral": ["a"]}, scorer, target="joy")  # pyright: ignore
    with pytest.raises(ValueError, match="groups: got"):
        Protocol("none", (("neutral", ()),), scorer)
    with pytest.raises(ValueError, match="scored: got 'all'"):
        Protocol("none", (("neutral", ("a",)),), scorer, scored="all")  # pyright: ignore
    for name in ("samples", "max_new_tokens", "top_p"):
        with pytest.raises(ValueError, match=f"{name}: got 0"):
            Sampling(**{name: 0})


# ---- the two kinds of method ----


def test_a_writer_is_measured_as_what_it_is_made_of(model, push):
    writer, data = AsWriter(push), sl.toy.corpus("tone", n=30, seed=2)
    assert isinstance(writer, Writer)
    one, other = (
        write(model, m, ["it was", "my"], strength=0.5, sampling=SHORT) for m in (push, writer)
    )
    pd.testing.assert_frame_equal(one, other)
    for a, b in zip(
        own_costs(model, push, one, strength=0.5),
        own_costs(model, writer, one, strength=0.5),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
        assert len(a) > 0 and a.max() > 1e-3
    assert cost_on(model, writer, data)(0.5) == pytest.approx(
        cost_on(model, push, data)(0.5), rel=1e-4
    )
    for a, b in zip(
        *(given_margins(model, m, data, strength=0.5) for m in (push, writer)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def test_costs_are_those_at_the_tokens_that_were_written(model, push):
    written = write(model, push, ["it was"], strength=0.7, sampling=SHORT)
    costs = own_costs(model, push, written, strength=0.7)
    for kl, text in zip(costs, written.text, strict=True):
        assert len(kl) == len(text.split()) + 1  # and the end
    from steerlens.evaluate.sign_margin import written_kl

    np.testing.assert_allclose(
        [kl.mean() for kl in costs], written_kl(model, written, push), rtol=1e-5
    )
    glued = written.assign(text=["s end", ""])
    assert [len(kl) for kl in own_costs(model, push, glued, strength=0.7)] == [0, 0]


@pytest.mark.filterwarnings("ignore:the end-of-text token")
def test_the_cost_of_a_text_is_that_of_prompt_and_text_as_one_string():
    from steerlens.evaluate.sign_margin import written_kl

    model = sl.load_model("toy-96-llama", plain=True)
    push = random_steer(sl.readout(model), seed=1)
    written = sl.generate(
        model, ["the fi", "it was"], push, strengths=0.7, samples=2, seed=0, max_new_tokens=6
    )
    assert not any(text[0].isspace() for text in written.text[:2])
    costs, how = written_kl(model, written, push), convention(model, push.readout)
    tokenizer = adapter(model).tokenizer
    for prompt, text, cost in zip(written.prompt, written.text, costs, strict=True):
        head, whole = (encode_prompts(tokenizer, [s], how)[0] for s in (prompt, prompt + text))
        assert whole[: len(head)] == head
        (c,) = sl.collect(model, [prompt + text], progress=False).shards
        assert int(c.next[-1]) == tokenizer.eos_token_id
        p, q = (
            push.readout.logits(x).double().log_softmax(1)
            for x in (c.hidden, push.apply(c.hidden, 0.7))
        )
        kl = (p.exp() * (p - q)).sum(1)[-(len(whole) - len(head) + 1) :]
        assert cost == pytest.approx(float(kl.mean()), rel=1e-4)


def test_a_writer_that_breaks_its_word_is_named(model, push):
    class Says(AsWriter):
        said: pd.DataFrame

        def generate(self, *_: Any, **__: Any) -> pd.DataFrame:
            return self.said

    writer = Says(push)
    writer.said = pd.DataFrame({"text": ["x"]})
    with pytest.raises(ValueError, match="'as writer' gave no column 'prompt'"):
        write(model, writer, ["it"], strength=1.0)
    writer.said = sl.generate(model, ["it"], push)
    with pytest.raises(ValueError, match="gave 1 rows, expected one row per prompt and sample, 5"):
        write(model, writer, ["it"], strength=1.0)


def test_methods_of_another_model_are_refused_before_anything_is_written(model, push, task):
    other = sl.load_model("toy-96-llama")
    for method in (push, AsWriter(push)):
        with pytest.raises(ValueError, match=r"toy-64.*toy-96"):
            check_base(method, other)
        with pytest.raises(ValueError, match=r"toy-64.*toy-96"):
            run_protocol(other, [BASE, Entrant("push", method, 1.0)], task, progress=False)


# ---- runs ----


def test_every_prompt_is_written_to_by_every_entrant(model, push, task, texts):
    assert len(texts) == 2 * 5 * 2
    assert (
        texts.groupby(["entrant", "kind"], sort=False).row.unique().map(list).tolist()
        == [[0, 1], [2, 3, 4]] * 2
    )
    plain = write(model, None, task.prompts, strength=0.0, sampling=SHORT)
    base, pushed = texts[texts.entrant == "base"], texts[texts.entrant == "push"]
    assert base.text.tolist() == plain.text.tolist() != pushed.text.tolist()
    assert (
        base.score.tolist()
        == oracle("sentiment").scores((plain.prompt + plain.text).tolist()).tolist()
    )
    assert max(kl.max() for kl in base.kl) == 0 < min(kl.max() for kl in pushed.kl if len(kl))


def test_the_text_alone_is_scored_where_the_protocol_says_so(model, task, texts):
    alone = run_protocol(model, [BASE], replace(task, scored="text"), progress=False)
    whole = texts[texts.entrant == "base"]
    assert alone.text.tolist() == whole.text.tolist()
    assert alone.score.tolist() == oracle("sentiment").scores(whole.text.tolist()).tolist()
    assert alone.score.tolist() != whole.score.tolist()


def test_fluency_is_judged_by_the_named_model(model, task, texts):
    other = sl.load_model("toy-128")
    judged = run_protocol(model, [BASE], replace(task, evaluator=other), progress=False)
    own = texts[texts.entrant == "base"]
    assert judged.text.tolist() == own.text.tolist()
    assert not np.allclose(judged.nats, own.nats)
    whole, head = (
        -sl.score(other, [s], end=False).log_prob.sum()
        for s in (judged.prompt[0] + judged.text[0], judged.prompt[0])
    )
    assert judged.nats[0] == pytest.approx(whole - head, abs=1e-3)


def test_an_interrupted_run_goes_on(model, push, task, texts, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(runs, "ROWS", 4)  # blocks of two prompts
    judged: list[int] = []

    def judge(texts: Sequence[str]) -> list[float]:
        if texts[0] != JUDGED[0]:  # by which a judge is told from another
            judged.append(len(texts) // SHORT.samples)
        return [0.0] * len(texts)

    def until_the_third_block(texts: Sequence[str]) -> list[float]:
        if len(judged) == 3:
            raise KeyboardInterrupt
        return judge(texts)

    both = [BASE, Entrant("push", push, 0.5)]
    task, stopped = (
        replace(task, scorer=function_scorer(f, "watched")) for f in (judge, until_the_third_block)
    )
    with pytest.raises(KeyboardInterrupt):
        run_protocol(model, both, stopped, folder=tmp_path / "run", progress=False)
    assert len(list((tmp_path / "run").glob("*/block-*.json"))) == 3
    judged.clear()
    found = run_protocol(model, both, task, folder=tmp_path / "run", progress=False)
    assert judged == [2, 2, 1]  # the second entrant's alone
    columns = ["entrant", "kind", "row", "prompt", "sample", "text"]
    pd.testing.assert_frame_equal(found[columns], texts[columns])
    np.testing.assert_allclose(found.nats, texts.nats, atol=1e-3)
    for a, b in zip(found.kl, texts.kl, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    judged.clear()
    run_protocol(
        model, [*both, Entrant("more", push, 0.1)], task, folder=tmp_path / "run", progress=False
    )
    assert len(judged) == 3  # only who is new


def test_a_run_with_other_settings_is_refused_by_name(model, push, task, tmp_path: Path):
    run_protocol(
        model, [BASE, Entrant("push", push, 0.5)], task, folder=tmp_path / "run", progress=False
    )
    other = replace(task, sampling=replace(SHORT, samples=1, seed=4), wanted="low")
    with pytest.raises(
        ValueError,
        match="other settings: wanted was 'high' and is 'low', samples was 2 and is 1, seed was 3 and is 4",
    ):
        run_protocol(model, [BASE], other, folder=tmp_path / "run", progress=False)
    with pytest.raises(
        ValueError, match=r"texts of 'push' with other settings: strength was 0.5 and is 0.6"
    ):
        run_protocol(
            model, [Entrant("push", push, 0.6)], task, folder=tmp_path / "run", progress=False
        )
    with pytest.raises(ValueError, match="texts of 'push' with other settings: method was 'Steer"):
        run_protocol(
            model, [Entrant("push", 2 * push, 0.5)], task, folder=tmp_path / "run", progress=False
        )
    with pytest.raises(ValueError, match="prompts was"):
        fewer = replace(task, groups=task.groups[:1])
        run_protocol(model, [BASE], fewer, folder=tmp_path / "run", progress=False)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something else"):
        run_protocol(model, [BASE], task, folder=tmp_path / "full", progress=False)
    with pytest.raises(FileNotFoundError, match="create it first"):
        run_protocol(model, [BASE], task, folder=tmp_path / "no" / "run", progress=False)
    block = next((tmp_path / "run").glob("base/block-*.json"))
    block.write_text(block.read_text()[:50])
    with pytest.raises(ValueError, match="is no block of a run"):
        run_protocol(model, [BASE], task, folder=tmp_path / "run", progress=False)


def toxic(*words: str) -> Scorer:
    return word_list(words, measures="how toxic")


def constant(score: float) -> Scorer:
    return function_scorer(lambda texts: [score] * len(texts), "my judge")


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        (toxic("zebra"), toxic("quagga"), "scorer was"),
        (constant(0.1), constant(0.9), "scores of a few texts differ by up to 0.8"),
    ],
)
def test_another_judge_of_the_same_name_is_refused(
    model, task, tmp_path: Path, one: Scorer, other: Scorer, said: str
):
    def go(judge: Scorer) -> pd.DataFrame:
        asked = replace(task, scorer=judge)
        return run_protocol(model, [BASE], asked, folder=tmp_path / "run", progress=False)

    assert str(one.card) == str(other.card)
    first = go(one)
    with pytest.raises(ValueError, match=f"a run with other settings: {said}"):
        go(other)
    pd.testing.assert_frame_equal(go(one), first)


def test_another_gate_and_a_turned_matrix_are_other_methods(model, push, task, tmp_path: Path):
    turned = replace(push, W=push.W.T.contiguous())
    gated = [push.when(when) for when in ("from 5", "every 3")]
    for k, (a, b) in enumerate([(push, turned), gated, (push, gated[0])]):
        run_protocol(model, [Entrant("it", a, 0.5)], task, folder=tmp_path / f"{k}", progress=False)
        with pytest.raises(ValueError, match="texts of 'it' with other settings: method was"):
            run_protocol(
                model, [Entrant("it", b, 0.5)], task, folder=tmp_path / f"{k}", progress=False
            )


@pytest.mark.parametrize("role", ["model", "evaluator"])
def test_other_layers_under_the_same_read_out_are_refused(task, tmp_path: Path, role: str):
    def go(one: Any) -> pd.DataFrame:
        asked = task if role == "model" else replace(task, evaluator=one)
        base = one if role == "model" else plain
        return run_protocol(base, [BASE], asked, folder=tmp_path / "run", progress=False)

    plain, tuned = (sl.load_model("toy-64", plain=True) for _ in range(2))
    with torch.no_grad():
        for name, p in adapter(tuned).module.named_parameters():
            p.mul_(1.3 if "mlp" in name else 1.0)
    first = go(plain)
    with pytest.raises(ValueError, match=f"states of the {role} differ by up to"):
        go(tuned)
    pd.testing.assert_frame_equal(go(plain), first)


def test_a_folder_that_does_not_say_enough_is_refused(model, task, tmp_path: Path):
    run_protocol(model, [BASE], task, folder=tmp_path / "run", progress=False)
    file = tmp_path / "run" / "settings.json"
    old = json.loads(file.read_text())
    del old["states of the model"]
    file.write_text(json.dumps(old))
    with pytest.raises(ValueError, match="earlier steerlens .* say the states of the model"):
        run_protocol(model, [BASE], task, folder=tmp_path / "run", progress=False)
    file.write_text("[")
    with pytest.raises(ValueError, match=r"settings.json is no settings of a run"):
        run_protocol(model, [BASE], task, folder=tmp_path / "run", progress=False)


def test_content_is_told_to_the_bit(push):
    once, again = (content(value) for value in (push, replace(push, W=push.W.clone())))
    assert once == again != content(replace(push, W=push.W.nextafter(torch.tensor(9.0))))
    assert content(["a", "b"]) != content(["ab"]) and content({"a"}) == content({"a"})
    assert content(torch.zeros(2, dtype=torch.bfloat16)) != content(torch.zeros(2))


def test_names_in_any_letters_are_names_of_their_own(model, push, task, tmp_path: Path):
    names = ["joy+", "joy-", "радость", "怒り", "joy"]
    assert len({slug(name) for name in names}) == len(names)
    entrants = [Entrant(name, push, k / 10) for k, name in enumerate(names)]
    run = {"folder": tmp_path / "run", "progress": False}
    first = run_protocol(model, entrants, task, **run)
    assert first.entrant.unique().tolist() == names
    pd.testing.assert_frame_equal(run_protocol(model, entrants, task, **run), first)
    with pytest.raises(ValueError, match="'joy, 2' and 'Joy 2' would be kept in one folder"):
        run_protocol(model, [Entrant(n, push, 0.1) for n in ("joy, 2", "Joy 2")], task, **run)


def test_what_cannot_be_written_is_refused_before_it_starts(model, push, task):
    long = replace(task, groups=(("neutral", ("it was", "it " * 252)),))
    with pytest.raises(ValueError, match=r"prompts: 'it it.* does not fit the context of 256"):
        run_protocol(model, [BASE], long, progress=False)
    with pytest.raises(ValueError, match="entrants: got 'push' twice"):
        run_protocol(model, [Entrant("push", push, s) for s in (0.1, 0.2)], task, progress=False)
    nan = function_scorer(lambda texts: [float("nan")] * len(texts), "broken")
    with pytest.raises(ValueError, match=r"scorer: 'broken' gave nan for texts\[0\]"):
        run_protocol(model, [BASE], replace(task, scorer=nan), progress=False)


# ---- numbers ----


def table_of(scores: dict[str, list[list[float]]], kl: float = 0.0) -> pd.DataFrame:
    """Return texts with given scores, by entrant, prompt and sample."""
    return pd.DataFrame(
        [
            {
                "entrant": name, "kind": "all", "row": row, "prompt": "p", "sample": k, "text": " a b a b a b",
                "score": score, "nats": 6.0, "tokens": 3.0, "kl": np.array([kl, 3 * kl]),
            }
            for name, prompts in scores.items()
            for row, samples in enumerate(prompts)
            for k, score in enumerate(samples)
        ]
    )  # fmt: skip


def test_the_numbers_are_those_of_the_papers():
    task = detoxification(["p", "p"], function_scorer(lambda t: [0.0] * len(t), "none"))
    table = table_of({"base": [[0.9, 0.2], [0.4, 0.6]], "calm": [[0.1, 0.2], [0.6, 0.8]]}, kl=0.2)
    found = summarize(table, task).set_index("entrant")
    base, calm = found.loc["base"], found.loc["calm"]
    assert base[
        ["mean_score", "above_half", "expected_max", "any_above"]
    ].tolist() == pytest.approx([0.525, 0.5, 0.75, 1.0])
    assert calm[["expected_max", "any_above"]].tolist() == pytest.approx([0.5, 0.5])
    # low is wanted: the first prompt gained 0.4, the second lost 0.2
    assert calm.gain == pytest.approx((0.4 - 0.2) / 2) and calm.anti_steered == 0.5
    # Student's, of two prompts, is 0.1 ± 12.7 · 0.3, and no score gains more than 1; either drawn
    # twice gives −0.2 and 0.4
    assert (calm.gain_low, calm.gain_high) == (-1, 1)
    assert base.gain == 0 and base.anti_steered == 0
    assert base.perplexity == pytest.approx(np.exp(2)) and base.corpus_perplexity == pytest.approx(
        np.exp(2)
    )
    assert (base.distinct_1, base.distinct_2) == pytest.approx((2 / 12, 2 / 12))
    assert base.repetition == pytest.approx(1 / 3)  # a b a b, b a b a, a b a b
    assert (calm.own_kl, calm.own_kl_p95) == pytest.approx((0.4, 0.6))
    assert base.scorer == "none" and np.isnan(base.scorer_auc)
    up = summarize(table, replace(task, wanted="high")).set_index("entrant")
    assert up.loc["calm"].gain == pytest.approx(-calm.gain)


def test_fluency_and_variety_have_intervals_over_prompts():
    task = detoxification(["p", "p"], function_scorer(lambda t: [0.0] * len(t), "none"))
    table = table_of({"base": [[0.9, 0.2], [0.4, 0.6]]})
    table["nats"], table["tokens"] = [1.0, 3.0, 8.0, 8.0], 2.0  # 1 and 4 nats per token
    table["text"] = ["a b", "a b", "c d", "e f"]
    found = summarize(table, task).iloc[0]
    assert found.corpus_perplexity == pytest.approx(np.exp(20 / 8))
    ends = found[["corpus_perplexity_low", "corpus_perplexity_high"]].astype(float)
    # Student's, of two prompts
    np.testing.assert_allclose(np.log(ends), 2.5 + 12.706 * 1.5 * np.array([-1, 1]), rtol=1e-3)
    assert found.distinct_2 == 0.375
    low, high = found.distinct_2_low, found.distinct_2_high
    assert (low, high) == (0, 1)  # 0.375 ± 12.7 / 8, of which a share is no more
    table.loc[table.row == 0, "tokens"] = 0.0  # one prompt's texts are empty
    alone = summarize(table, task).iloc[0]
    assert np.isnan(alone.corpus_perplexity_low) and not np.isnan(alone.distinct_2_low)


def test_an_interval_over_few_prompts_covers_what_other_prompts_would_give():
    task = detoxification(["p"] * 4, function_scorer(lambda t: [0.0] * len(t), "none"))
    random, covered = np.random.default_rng(0), 0
    for _ in range(80):
        found = summarize(table_of({"base": random.beta(2, 2, (4, 1)).tolist()}), task).iloc[0]
        covered += found.mean_score_low <= 0.5 <= found.mean_score_high
    assert covered >= 68  # 76 expected; prompts drawn with replacement give 61


def test_shares_that_are_alike_for_every_prompt_have_an_interval_with_a_width():
    task = detoxification(["p"] * 15, function_scorer(lambda t: [0.0] * len(t), "none"))
    random, covered = np.random.default_rng(1), 0
    for _ in range(60):
        scores = 0.2 + 0.5 * (random.uniform(size=(15, 1)) < 0.95)
        found = summarize(table_of({"base": scores.tolist()}), task).iloc[0]
        covered += found.any_above_low <= 0.95 <= found.any_above_high
        assert found.any_above_low < found.any_above_high
    assert covered >= 53  # 57 expected; by Student's all prompts alike have none, 32
    every = summarize(table_of({"base": [[0.9, 0.9]] * 15}), task).iloc[0]
    assert every.above_half_low == every.any_above_low == pytest.approx(15 / (15 + 1.96**2), 1e-3)
    mixed = summarize(table_of({"base": [[0.9, 0.1]] * 14 + [[0.9, 0.9]]}), task).iloc[0]
    assert mixed.above_half_low < mixed.above_half < mixed.above_half_high < 0.7


def test_unequal_samples_and_a_missing_base_are_refused():
    task = detoxification(["p"], oracle("tone"))
    table = table_of({"base": [[0.1, 0.2]], "other": [[0.3]]})
    with pytest.raises(
        ValueError, match="1 samples for prompt 0 of 'other', 2 for prompt 0 of 'base'"
    ):
        summarize(table, task)
    with pytest.raises(ValueError, match="no entrant 'plain' among"):
        summarize(table_of({"base": [[0.1]]}), task, base="plain")


def test_empty_texts_are_counted():
    task = detoxification(["p"], oracle("tone"))
    table = table_of({"base": [[0.1, 0.2]]})
    table.loc[0, ["text", "tokens", "nats"]] = ["", 0.0, 0.0]
    table.at[0, "kl"] = np.zeros(0)
    found = summarize(table, task).iloc[0]
    assert found[["empty", "dropped", "texts"]].tolist() == [1, 0, 2]
    assert found.perplexity == pytest.approx(np.exp(2))
