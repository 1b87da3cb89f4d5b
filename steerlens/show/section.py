"""What the report's page says of one steer."""

from collections.abc import Mapping
from html import escape
from math import isnan

from steerlens.show.html import Picture, anchor, chip, decimal, figure, label, number, percent, table
from steerlens.show.study import Study
from steerlens.show.style import signed


def section(one: Study, pictures: Mapping[str, Picture]) -> list[str]:
    """HTML of one steer; `pictures` by the name of the figure."""
    r = one.fit.report
    parts = [
        f"<h2 id='{anchor(one.name)}'>{escape(one.name)}</h2>",
        f"<p class='verdict'><b>Verdict.</b> {escape(str(r.verdict))}</p>" if r.verdict else "",
        "<h3>What was fitted</h3>",
        f"<p>A steer and a background steer, which absorbs what all these texts have in common, on {r.n_texts:,} "
        "labelled texts "
        f"({r.n_positions:,} tokens{f', {r.n_truncated:,} texts cut to the context' if r.n_truncated else ''}). The "
        "held-out "
        "texts in this table are a tenth of them, on which the background was cut to fit; everything below is on "
        f"{one.n_test:,} other "
        "texts.</p>",
        table(["", ""], ([escape(name), escape(value)] for name, value in r.rows())),
        "<h3>Which strength explains texts of each label?</h3>",
        "<p>Log-likelihood of new texts at each strength, less that at strength 0, with the background always on. A "
        "good steer puts "
        f"the top of each curve (dot) near its label times {r.strength:.2f}, the strength that a label of 1 asks "
        "for, and the curves of opposite labels apart. Bands: ± 2 standard "
        "errors.</p>",
        figure(pictures["label_curve"], f"Log-likelihood of texts of each label against the strength of {one.name}"),
        "<h3>The same beginnings at five strengths</h3>",
        *_texts(one),
    ]
    if "written" in pictures:
        parts += [
            "<p>And many texts written from nothing, "
            f"{len(one.tables['written']) // one.tables['written'].strength.nunique()} at "
            "each strength. The grammar that made the training texts is known, so how a text must be judged is known "
            "too: the "
            f"exact posterior mean of its {escape(one.name)}, which needs no classifier. " + _real(one) + "</p>",
            figure(pictures["written"], f"Distribution of {one.name} of generated texts at each strength"),
        ]
    parts += ["<h3>What it costs</h3>", *_cost(one, pictures["cost"])]
    parts += ["<h3>What it reads and writes</h3>", *_words(one, pictures["words"], pictures["spectrum"])]
    parts += ["<h3>Which words of a text speak for it?</h3>", *_highlights(one)]
    parts += _classifiers(one)
    parts += _gap(one, pictures["gap"]) if "gap" in pictures else []
    parts += _losses(one, pictures.get("losses"))
    return parts


def _real(one: Study) -> str:
    """What the same judge says of real texts, beside which written ones can be too much of a good thing."""
    ends = one.tables["real"].sort_values("label").iloc[[0, -1]]
    said = " and ".join(f"{decimal(row.attribute)} of label {signed(row.label)}" for row in ends.itertuples())
    return (
        f"Real texts get, on average, {said}: what is written beyond that is stronger than real texts are on average."
    )


def _texts(one: Study) -> list[str]:
    kl = one.tables["kl"].set_index("strength").kl
    head = ["beginning"] + [
        f"{chip(s, one.strengths[-1])}<span class='judge'>{kl[s]:.2f} nats</span>" for s in one.strengths
    ]
    judged = "attribute" in one.tables["texts"]
    rows = []
    for prompt, part in one.tables["texts"].groupby("prompt", sort=False):
        cells = [f"<b>{escape(str(prompt))}</b>"]
        for row in part.sort_values("strength").itertuples():
            note = ""
            if judged:
                wrong = "" if row.grammatical else ", not quite grammatical"
                note = f"<span class='judge'>{escape(one.name)} {decimal(row.attribute)}{wrong}</span>"
            cells.append(f"… {escape(str(row.text).strip())}{note}")
        rows.append(cells)
    return [
        "<p>One text each, not chosen. Along a row the same random numbers are used, so only the steer changes. "
        "Under each strength: "
        "its KL from the plain model in nats per token, the price of the effect. The strengths were chosen so that "
        "this stays below "
        "0.4." + (" Under each text: its exact posterior mean, between −1 and 1." if judged else "") + "</p>",
        f"<div class='wide'>{table(head, rows, kind='texts')}</div>",
    ]


def _cost(one: Study, picture: Picture) -> list[str]:
    writing = one.tables["writing"].merge(one.tables["kl"], on="strength", how="left")
    rows = [
        [chip(r.strength, one.strengths[-1]), number(r.kl), f"{r.nll:.3f} ± {r.error:.3f}", f"{r.distinct_1:.2f}",
         f"{r.distinct_2:.2f}", f"{r.texts:.0f}"]
        for r in writing.itertuples()
    ]  # fmt: skip
    head = ["strength", "KL from plain", "NLL under plain", "distinct words", "distinct pairs", "texts"]
    return [
        "<p>A stronger effect is bought with fluency. <em>KL from plain</em> is exact, on given texts. <em>NLL under "
        "plain</em> is "
        "what the plain model thinks of the steered texts (± standard error): well above the value at 0 means that "
        "they have "
        "become strange, well below that they have become dull. <em>Distinct</em>: share of different words (word "
        "pairs) among all "
        "that were written.</p>",
        f"<div class='row'>{figure(picture, f'Cost of each strength of {one.name} in nats per token')}"
        f"<div class='wide'>{table(head, rows, numbers=range(1, 6))}</div></div>",
    ]


def _kept(kept: float, spread: float) -> str:
    """A dash where there was no gain that could have been kept."""
    return "–" if isnan(kept) else f"{kept:.2f} ± {spread:.2f}"


def _total(one: Study) -> str:
    """What all directions cost, where it is known: the gains alone do not say it."""
    kl = one.spectrum.kl
    return "" if kl is None else f", and cost {kl:.3f} nats per token at strength 1 (second order)"


def _words(one: Study, picture: Picture, spectrum: Picture) -> list[str]:
    again = "kept" in one.tables["words"]
    rows = [
        [f"{w.direction}{w.side.replace('-', '−')}", f"{w.gain:.3f}", percent(w.share), percent(w.used),
         *([_kept(w.kept, w.spread)] if again else []), escape(w.reads), escape(w.writes), escape(w.avoids)]
        for w in one.tables["words"].itertuples()
    ]  # fmt: skip
    head = ["direction", "gain", "share", "contexts", *(["kept"] if again else [])]
    head += ["where it was about to say", "says more of", "and less of"]
    kept = (
        "<em>Kept</em>: how much of the direction a fit to the other half of the texts has, over several halvings (1: all, 0: it "
        "was noise); a row that is not kept means nothing, however good its words look. "
        if again
        else ""
    )
    return [
        "<p>The singular directions of the steer in the natural metric. A direction reads a number off the context "
        "and shifts the "
        "logits in proportion to it; contexts on either side of zero are its sides + and −. The words are those that "
        "change the "
        "model's prediction there most at strength +1; at a negative strength the last two columns change places. "
        "Words in parentheses are ordinary: a random direction of the same norm would often give them as large a score; "
        "that the others are more than a fit to noise it does not say. "
        "<em>Gain</em>: typical shift of logits in nats at strength 1. <em>Share</em>: of the sum of squared "
        "gains. "
        f"<em>Contexts</em>: how many are on that side. {kept}All directions together count for "
        f"{one.spectrum.effective_rank:.1f} of equal share{_total(one)}.</p>",
        f"<div class='wide'>{table(head, rows, numbers=range(1, 5 if again else 4))}</div>",
        "<div class='row'>",
        figure(picture, f"Words that the two strongest directions of {one.name} write and avoid",
                "Bars: what strength +1 adds to a word's probability, over the root of that probability."),
        figure(spectrum, f"Gains of the directions of {one.name}, and what another half of the texts keeps of them"),
        "</div>",
    ]  # fmt: skip


def _highlights(one: Study) -> list[str]:
    return [
        "<p>New texts of the highest label, of the lowest and of one between, the first that are long enough. A token's shade "
        "is its evidence, log P at strength +1 less that at −1 (hover for the number): red speaks for the steer, blue "
        "against it. Boxes are the three best spans, found exactly; a token must be worth 0.1 nats to be in one.</p>",
        *(
            f"<div class='marked'>{chip(label, max(abs(y) for y, _ in one.highlights))}{found._repr_html_()}</div>"
            for label, found in one.highlights
        ),
    ]


def _classifiers(one: Study) -> list[str]:
    if "classify" not in one.tables:
        return []
    rows = [
        [escape(c.method), f"{c.accuracy:.3f} ({c.accuracy_low:.3f} to {c.accuracy_high:.3f})",
         f"{c.auc:.3f} ({c.auc_low:.3f} to {c.auc_high:.3f})", f"{c.log_loss:.3f}", f"{c.calibration:.3f}",
         f"{c.rank_correlation:.2f}"]
        for c in one.tables["classify"].itertuples()
    ]  # fmt: skip
    head = ["method", "accuracy (95 %)", "AUC (95 %)", "log loss", "calibration error", "rank correlation"]
    return [
        "<h3>The steer as a classifier</h3>",
        "<p>Which strength makes a text likeliest says what its label is. The first two rows use the steer as it is; the other "
        "two are trained to tell the labels apart. Signs of the labels of "
        f"{one.tables['classify'].texts.iloc[0]:,} new texts; calibration error: mean distance between predicted and "
        "observed shares.</p>",
        f"<div class='wide'>{table(head, rows, numbers=range(1, 6))}</div>",
    ]


def _gap(one: Study, picture: Picture) -> list[str]:
    gap = one.tables["gap"]
    rows = [
        [escape(label(g.grade)), *(f"{x:.4f}" for x in (g.base, g.steered, g.best_steered, g.truth, g.grammar)),
         f"{percent(g.gap_closed)} ({percent(g.low)} to {percent(g.high)})"]
        for g in gap.itertuples()
    ]  # fmt: skip
    multiple = gap.multiple.iloc[0]
    head = [
        "grade",
        "plain model",
        "steered",
        f"at {multiple:g} × grade",
        "truth",
        "grammar, not told",
        "gap closed (95 %)",
    ]
    whole = gap.set_index("grade").loc["all"]
    unlearned = (whole.base - whole.grammar) / (whole.base - whole.truth)
    return [
        "<h3>How far is it from the truth?</h3>",
        "<p>NLL in nats per token of the grammar, on fresh texts of each grade. <em>Truth</em> is the exact grammar "
        "that is told the "
        "grade; the steered model is told it too, by its strength. Gap closed = (plain − steered) / (plain − truth). "
        f"{percent(unlearned)} of that distance is what the plain model has not learned of the grammar at all "
        "(plain − grammar "
        "that is not told), which a steer is not made for. Grade 0 means strength 0: nothing changes, by "
        "construction, and it "
        f"counts in “all”. The multiple {multiple:g} was chosen on other texts.</p>",
        f"<div class='row'>{figure(picture, f'Gap closed by {one.name} on each grade')}"
        f"<div class='wide'>{table(head, rows, numbers=range(1, 7))}</div></div>",
    ]


def _losses(one: Study, picture: Picture | None) -> list[str]:
    rows = [
        [escape(label(x.label)), *(f"{n:.4f}".replace("-", "−") for n in x[2:])]
        for x in one.tables["losses"].itertuples()
    ]  # fmt: skip
    head = ["label", "plain model", "+ background", "+ steer", "sign turned", "contrast"]
    losses = f"<div class='wide'>{table(head, rows, numbers=range(1, 6))}</div>"
    shown = (
        losses
        if picture is None
        else f"<div class='row'>{figure(picture, f'Held-out NLL of {one.name}')}{losses}</div>"
    )
    return [
        "<h3>Likelihood of new texts</h3>",
        f"<p>Mean NLL in nats per token of {one.n_test:,} new texts, each read at its own label. The background "
        "explains how these "
        "texts differ from those of the plain model; what the steer itself is worth shows in the <em>contrast</em>, "
        "the NLL with the "
        "sign turned less that with the right sign.</p>",
        shown,
    ]
