"""The report as one HTML page: self-contained, escaped, no script, nothing from the network."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from steerlens.show.html import CSS, Picture, anchor, decimal, figure, percent, table
from steerlens.show.section import section
from steerlens.show.study import Study
from steerlens.show.style import signed


def page(studies: Sequence[Study], pictures: Mapping[str, Picture], facts: Mapping[str, Any]) -> str:
    """The whole report. `pictures` are named `STEER-FIGURE`; `facts` come from `write_report`."""
    title = f"steerlens report: {facts['model']}"
    links = "".join(f"<a href='#{anchor(s.name)}'>{escape(s.name)}</a>" for s in studies)
    moved = "<a href='#transfer'>another model</a>" if facts.get("transfer") else ""
    rivals = "<a href='#rivals'>rivals</a>" if facts.get("rivals") else ""
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p class='soft'>{escape(facts['data'])} · seed {facts['seed']} · steerlens "
        f"{escape(facts['versions']['steerlens'])}, "
        f"torch {escape(facts['versions']['torch'])}, transformer-lens "
        f"{escape(facts['versions']['transformer-lens'])}</p>",
        "<p>A <em>steer</em> is a matrix <i>W</i> on the output word embeddings of a frozen language model: with "
        "context vector "
        "<i>c</i> and strength <i>s</i> the logits become (<i>c</i> + <i>s</i>·<i>cW</i>) <i>W</i><sub>U</sub>. It "
        "makes texts likelier, the more so the nearer <i>s</i> is to their label times a strength that each section names; at "
        "strength 1 it costs a stated KL per token on the texts it was fitted to, at strength 0 the model is unchanged. "
        "All losses are in nats per token, on texts that the fit has not seen.</p>",
        "<ul class='short'>" + "".join(f"<li>{_in_short(s)}</li>" for s in studies) + "</ul>",
        f"<nav>{links}{moved}{rivals}<a href='#space'>embedding space</a><a href='#cost'>time</a></nav>",
    ]
    for one in studies:
        body += section(
            one, {k.removeprefix(f"{one.name}-"): v for k, v in pictures.items() if k.startswith(f"{one.name}-")}
        )
    if facts.get("transfer"):
        body += _transfer(facts["transfer"], pictures["transfer"])
    if facts.get("rivals"):
        body += _rivals(facts["rivals"], pictures["rivals"])
    body += _space(facts["components"])
    body += _time(studies, facts)
    return (
        "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{CSS}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _in_short(one: Study) -> str:
    """The main numbers of a steer in a sentence or two."""
    losses = one.tables["losses"].set_index("label").loc["all"]
    top = one.strengths[-1]
    kl = one.tables["kl"].set_index("strength").kl
    verdict = one.fit.report.verdict
    told = "" if verdict is None or verdict.found else " Not told from a steer fitted to shuffled labels."
    text = (
        f"<b>{escape(one.name)}</b>:{told} turning the steer's sign costs {losses.contrast:.3f} nats per token on new "
        "texts; strength "
        f"±{top:g} is {max(kl[top], kl[-top]):.2f} nats per token away from the plain model."
    )
    if "gap" in one.tables:
        gap = one.tables["gap"].set_index("grade").loc["all"]
        mean = one.tables["written"].groupby("strength").attribute.mean()
        text += (
            f" It closes {percent(gap.gap_closed)} (95 % interval {percent(gap.low)} to {percent(gap.high)}) of "
            "the distance to "
            f"the exact grammar that is told the grade. From strength {signed(-top)} to {signed(top)} the mean "
            f"{escape(one.name)} "
            f"of what is written goes from {decimal(mean.iloc[0])} to {decimal(mean.iloc[-1])}."
        )
    return text


def _transfer(moved: Mapping[str, Any], picture: Picture) -> list[str]:
    rows = [
        [escape(r["rule"]), f"{r['contrast']:.3f}".replace("-", "−"),
         f"{r['share']:.2f} ({r['low']:.2f} to {r['high']:.2f})".replace("-", "−"), f"{r['cosine']:.2f}".replace("-", "−"),
         f"{r['match']:.2f}", f"{r['seconds']:.2f}"]
        for r in moved["rules"]
    ]  # fmt: skip
    head = ["rule", "contrast", "share (95 %)", "cosine", "match", "seconds"]
    return [
        "<h2 id='transfer'>On another model</h2>",
        f"<p>The {escape(moved['steer'])} steer moved to {escape(moved['target'])}, which shares {moved['shared_tokens']:,} "
        "tokens, by every rule, and one that is trained there on the same labels. All cost "
        f"{moved['kl']:g} nats per token. <em>Contrast</em>: what turning the sign costs on new texts, nats per token. "
        "<em>Share</em>: of the trained steer's. <em>Cosine</em>: with the trained steer, in the natural metric. <em>Match</em>: "
        "share of the source's logit shifts that it reproduces (the trained one: as far as it has learned the same). The "
        f"last three rules read {moved['texts']:,} texts without labels.</p>",
        f"<div class='row'>{figure(picture, 'Share of the trained effect that each rule keeps')}"
        f"<div class='wide'>{table(head, rows, numbers=range(1, 6))}</div></div>",
    ]


def _rivals(found: Mapping[str, Any], picture: Picture) -> list[str]:
    rows = [
        [escape(r["name"]), f"{r['parameters']:,}", f"{r['contrast']:.3f} ({r['low']:.3f} to {r['high']:.3f})".replace("-", "−"),
         "none" if r["strength"] is None else f"{r['strength']:.2f}", f"{r['seconds']:.1f}"]
        for r in found["table"]
    ]  # fmt: skip
    head = ["", "parameters", "contrast (95 %)", "strength", "seconds"]
    return [
        "<h2 id='rivals'>Beside edits and prompts</h2>",
        "<p>ReFT changes the residual stream behind a layer inside a subspace; here LoReFT, at every token, for "
        f"{escape(found['steer'])}, fitted with a steer to the same {found['train']:,} texts. Prompt tuning puts rows before "
        "the text, a prefix learned keys and values before it in every layer. All at the strength that costs "
        f"{found['kl']:g} nats per token over strength 0; what has none has learned nothing. <em>Contrast</em>: what turning the "
        f"sign costs on {found['test']:,} new texts, nats per token.</p>",
        f"<div class='wide'>{table(head, rows, numbers=range(1, 5))}</div>",
        "<p>Do both use the same subspace? The largest squared cosine of an angle between the edit's subspace and what the steer "
        "writes (the edit's directions carried to the unembedding, in the natural metric) and reads (canonical correlation over "
        "contexts), the difference of the mean states of the two signs, and the normal of a probe. Grey: random subspaces.</p>",
        figure(picture, "How much of the subspaces of ReFT is what the steer and two simple directions use"),
        *_prompt(found["prompt"]),
    ]


def _prompt(found: Mapping[str, Any]) -> list[str]:
    words = [[str(k + 1), *(escape(word.strip()) for word in pair)] for k, pair in enumerate(found["words"])]
    ways = [
        [
            escape(r["what"]),
            f"{r['nll']:.3f}",
            f"{r['contrast']:.3f} ({r['low']:.3f} to {r['high']:.3f})".replace("-", "−"),
        ]
        for r in found["readability"]
    ]
    shares = {r["question"]: r for r in found["moves"]}
    moved = ""
    if shares:
        writes, whole = shares["writes"], shares["steer's move"]
        moved = (
            f" Of what the prompt does to the context, {percent(writes['share'])} lies along the steer's strongest write "
            f"directions (random ones: {percent(writes['chance'])}); its squared cosine with the steer's own move is "
            f"{whole['share']:.2f}."
        )
    return [
        f"<p>What does the soft prompt say? Its {found['rows']} rows end "
        f"{found['distance'][0]:.0f} and {found['distance'][1]:.0f} times as far from the nearest word as words are from one "
        "another (at +1 and −1). Whether these words are what it means is tried by putting them in its place: a reading is "
        f"worth what they keep, against random words.{moved}</p>",
        f"<div class='row'><div class='wide'>{table(['row', 'nearest at +1', 'at −1'], words, numbers=range(1))}</div>"
        f"<div class='wide'>{table(['in its place', 'NLL', 'contrast (95 %)'], ways, numbers=range(1, 3))}</div></div>",
    ]


def _space(components: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [
        [str(c["component"]), percent(c["share"]), f"{c['stability']:.2f}", escape(c["bottom"]), escape(c["top"])]
        for c in components
    ]
    head = ["axis", "variance", "stability", "one end", "the other"]
    return [
        "<h2 id='space'>The embedding space</h2>",
        "<p>The principal axes of the model's output embeddings, which a steer acts on, with the words at both ends. "
        "<em>Stability</em>: how much of the axis two halves of the words, which share none, both find (chance: "
        f"{components[0]['chance']:.2f}). An axis is not yet a "
        "meaning; <code>steerlens.analysis.embeddings.probe</code> tests one.</p>",
        f"<div class='wide'>{table(head, rows, numbers=range(1, 3))}</div>",
    ]


def _time(studies: Sequence[Study], facts: Mapping[str, Any]) -> list[str]:
    steps = list(dict.fromkeys(step for one in studies for step in one.seconds))
    rows = []
    for one in studies:
        r = one.fit.report
        speed = r.passes * r.n_positions / max(r.seconds, 1e-9)
        rows.append(
            [escape(one.name), *(f"{one.seconds.get(s, 0):.1f}" for s in steps), f"{r.passes:.1f}", f"{speed:,.0f}"]
        )
    head = ["steer", *(f"{step} (s)" for step in steps), "passes of the fit", "positions per second"]
    return [
        "<h2 id='cost'>Time</h2>",
        f"<p>{facts['seconds']:.0f} seconds in all, {facts['threads']} torch "
        f"thread{'s' if facts['threads'] != 1 else ''}. The "
        "language model reads every text once (collect); a pass of the fit goes over the stored states and never "
        "runs the model.</p>",
        f"<div class='wide'>{table(head, rows, numbers=range(1, len(head)))}</div>",
        "<p class='soft'>Every number on this page is in report.json, every figure as PDF, PNG and JSON in figures/, "
        "and the "
        "steers are in steers/: read one with <code>steerlens.load(path, model)</code>.</p>",
    ]
