"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const axes = data.stops.length, k = data.candidates, SHOWN = 10;
  const $ = (id) => document.getElementById(id);
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
  const ids = new Int32Array(bytes(data.ids)), logits = new Float32Array(bytes(data.logits));
  const shifts = data.shifts.map((x) => new Float32Array(bytes(x))), rest = new Float32Array(bytes(data.rest));
  const m = data.n ** axes, zero = data.stops.map(() => 0);

  // ---- the model at any strength ----

  function chebyshev(s, n = data.n) {  // products of polynomials, in the order of the coefficients
    let found = [1];
    for (let j = 0; j < axes; j++) {
      const x = (2 * s[j] - data.low[j] - data.high[j]) / (data.high[j] - data.low[j]), T = [1, x];
      for (let i = 2; i < n; i++) T.push(2 * x * T[i - 1] - T[i - 2]);
      found = found.flatMap((a) => T.slice(0, n).map((b) => a * b));
    }
    return found;
  }
  const dot = (coefficients, start, basis) => basis.reduce((sum, b, i) => sum + b * coefficients[start + i], 0);
  const cost = (s) => Math.max(0, dot(data.cost, 0, chebyshev(s, data.cost_n)));

  function logProbs(position, s, basis) {  // of the candidates of a position
    const z = [];
    for (let c = position * k; c < (position + 1) * k; c++) {
      let x = logits[c];
      for (let j = 0; j < axes; j++) x += s[j] * shifts[j][c];
      x *= data.scale;
      z.push(data.softcap === null ? x : data.softcap * Math.tanh(x / data.softcap));
    }
    const others = dot(rest, position * m, basis), top = Math.max(others, ...z);
    const total = top + Math.log(z.reduce((sum, x) => sum + Math.exp(x - top), Math.exp(others - top)));
    return z.map((x) => x - total);
  }

  // ---- what is shown ----

  const state = { prompt: 0, s: [...zero], side: "steered", piece: -1, colour: 0 };
  const nearest = (axis, x) => axis.reduce((best, stop, i) => (Math.abs(stop - x) < Math.abs(axis[best] - x) ? i : best), 0);
  const sizes = data.stops.map((axis) => axis.length), perPrompt = sizes.reduce((a, b) => a * b, 1);
  function textAt(s) {
    const place = data.stops.reduce((sum, axis, j) => sum * sizes[j] + nearest(axis, s[j]), 0);
    return data.written[data.grid[state.prompt * perPrompt + place]];
  }
  const shownText = (side) => textAt(side === "plain" ? zero : state.s);
  const signed = (x, digits) => {
    const text = Math.abs(x).toFixed(digits);
    return Number(text) === 0 ? text : (x > 0 ? "+" : "−") + text;
  };
  const strength = (x) => (Math.abs(x) < 0.005 ? "0" : (x > 0 ? "+" : "−") + String(Number(Math.abs(x).toFixed(2))));
  const share = (p) => (p >= 0.0995 ? (100 * p).toFixed(0) : p >= 0.00995 ? (100 * p).toFixed(1) : p >= 0.0000995 ? (100 * p).toFixed(2) : "< 0.01") + " %";
  const setting = (s) => data.names.map((name, j) => `${name} ${strength(s[j])}`).join(", ");
  const largest = data.names.map((_, j) => Math.max(1e-9, ...data.written.flatMap((one) => one.evidence[j].map(Math.abs))));
  const SCALE = Math.log(10);  // a word that the strengths make ten times as likely has the full colour

  function element(tag, options = {}) {
    return Object.assign(document.createElement(tag), options);
  }
  function change(position) {
    return logProbs(position, state.s, chebyshev(state.s))[0] - logProbs(position, zero, chebyshev(zero))[0];
  }
  function tint(one, i) {
    const live = state.colour === axes, at = one.positions[i];
    const x = live ? (at < 0 ? 0 : change(at)) : one.evidence[state.colour][i];
    const depth = Math.min(1, Math.abs(x) / (live ? SCALE : Math.min(largest[state.colour], 2 * SCALE)));
    return { x, rgb: x > 0 ? [208, 73, 47] : [58, 127, 196], alpha: 0.68 * depth };
  }

  function fill(side) {
    const one = shownText(side), box = $(side), focused = box.contains(document.activeElement);
    const spans = state.colour < axes ? one.spans[state.colour] : [];
    const nodes = [];
    let inside = null;
    one.pieces.forEach((piece, i) => {
      const bare = piece.trimStart(), space = piece.slice(0, piece.length - bare.length);
      const span = spans.find(([start]) => start === i);
      if (space && bare) (inside && !span ? inside : nodes).push(space);
      if (span) inside = [];
      const { rgb, alpha } = tint(one, i);
      const word = element("span", { textContent: bare || piece.replace(/\n/g, "⏎").replace(/\s/g, "␣") });
      word.setAttribute("role", "option");
      const selected = state.side === side && state.piece === i;
      word.setAttribute("aria-selected", String(selected));
      word.tabIndex = selected || (state.side !== side && i === one.start) ? 0 : -1;
      word.dataset.piece = i;
      if (i < one.start) word.className = "given";
      word.style.backgroundColor = `rgba(${rgb.join(",")},${alpha.toFixed(3)})`;
      (inside || nodes).push(word);
      const closing = inside && spans.find(([, end]) => end === i + 1);
      if (closing) {
        const frame = element("span", { className: "box" });
        frame.append(...inside, element("small", { textContent: "\u00a0" + signed(closing[2], 1) }));
        nodes.push(frame);
        inside = null;
      }
    });
    box.replaceChildren(...nodes);
    if (focused) box.querySelector("[tabindex='0']")?.focus({ preventScroll: true });
  }

  function distribution() {  // of the chosen place: rows to show, and all others
    const one = shownText(state.side), at = one.positions[state.piece];
    if (at === undefined || at < 0) return null;
    const here = logProbs(at, state.s, chebyshev(state.s)), plain = logProbs(at, zero, chebyshev(zero));
    const rows = here.map((x, c) => ({ label: data.tokens[ids[at * k + c]], p: Math.exp(x), plain: Math.exp(plain[c]), written: c === 0 }));
    const shown = [...rows].sort((a, b) => b.p - a.p).slice(0, SHOWN);
    if (!shown.includes(rows[0])) shown[shown.length - 1] = rows[0];
    const left = (key) => Math.max(0, 1 - shown.reduce((sum, row) => sum + row[key], 0));
    return { rows: shown, rest: { label: `${(data.vocabulary - shown.length).toLocaleString("en")} others`, p: left("p"), plain: left("plain") } };
  }

  function bars() {
    const found = distribution(), list = $("bars"), one = shownText(state.side);
    const before = one.pieces.slice(0, state.piece).join("");
    $("context").replaceChildren(
      element("span", { className: "soft", textContent: `${state.side === "plain" ? "Plain" : "Steered"} text, after: ` }), before || "(nothing)");
    if (found === null) {
      list.replaceChildren();
      $("lumped").textContent = one.pieces.length ? "The model does not predict this word: nothing is before it." : "The model ends here at once.";
      return;
    }
    const all = [...found.rows, { ...found.rest, rest: true }];
    const most = Math.max(...found.rows.map((row) => Math.max(row.p, row.plain)));
    list.replaceChildren(...all.map((row) => {
      const item = element("li", { className: row.rest ? "rest" : row.written ? "written" : "" });
      item.dataset.p = row.p;
      item.dataset.plain = row.plain;
      const track = element("span", { className: row.rest ? "" : "track" });
      if (!row.rest) {
        const bar = element("i"), line = element("b");
        bar.style.width = `${(100 * row.p) / most}%`;
        line.style.left = `${(100 * row.plain) / most}%`;
        track.append(bar, line);
      }
      item.append(element("span", { className: "word", textContent: row.label, title: row.label }), track,
        element("span", { className: "share", textContent: `${share(row.p)} (plain ${share(row.plain)})` }));
      return item;
    }));
    $("lumped").textContent = `Bar: ${setting(state.s)}. Line: plain model. ▸ marks the word that was written.`;
  }

  function gauge() {
    const nats = cost(state.s), box = $("gauge"), corners = [];
    for (let i = 0; i < 2 ** axes; i++) corners.push(cost(zero.map((_, j) => ((i >> j) & 1 ? data.high[j] : data.low[j]))));
    const most = Math.max(data.budget * 1.15, ...corners);
    box.firstChild.style.width = `${Math.min(100, (100 * nats) / most)}%`;
    box.lastChild.style.left = `${(100 * data.budget) / most}%`;
    box.classList.toggle("over", nats > data.budget);
    box.setAttribute("aria-valuenow", nats.toFixed(4));
    box.setAttribute("aria-valuemax", most.toFixed(2));
    box.dataset.kl = nats;
    $("cost").textContent = `Costs ${nats.toFixed(3)} nats of KL per token` + (nats > data.budget ? `, beyond the ${data.budget} at which text comes apart` : ` (mark: ${data.budget})`);
  }

  function draw() {
    const at = data.stops.map((axis, j) => axis[nearest(axis, state.s[j])]);
    const moved = at.some((x, j) => Math.abs(x - state.s[j]) > 0.005);
    $("steered-at").textContent = `Steered: ${setting(at)}` + (moved ? " (nearest stop)" : "");
    for (const side of ["plain", "steered"]) {
      const one = shownText(side);
      if (state.side === side) state.piece = Math.min(state.piece < 0 ? one.start : state.piece, one.pieces.length - 1);
    }
    fill("plain");
    fill("steered");
    bars();
    gauge();
    document.querySelectorAll(".strength").forEach((input, j) => {
      input.value = state.s[j];
      input.setAttribute("aria-valuetext", strength(state.s[j]));
      input.nextElementSibling.textContent = strength(state.s[j]);
    });
    $("prompt").value = state.prompt;
    document.querySelectorAll("[name=colour]").forEach((input) => { input.checked = Number(input.value) === state.colour; });
    keep();
  }

  // ---- the link holds the state ----

  let written = "";
  function keep() {
    written = `#p=${state.prompt}&s=${state.s.map((x) => Number(x.toFixed(3))).join(",")}&w=${state.side}.${state.piece}&c=${state.colour}`;
    try { history.replaceState(null, "", written); } catch { /* a page in a notebook has no address */ }
  }
  function recall() {
    if (location.hash === written) return;
    const given = new URLSearchParams(location.hash.slice(1)), whole = (x, end) => Number.isInteger(x) && x >= 0 && x < end;
    const prompt = Number(given.get("p") ?? NaN), colour = Number(given.get("c") ?? NaN);
    if (whole(prompt, data.grid.length / perPrompt)) state.prompt = prompt;
    if (whole(colour, axes + 1)) state.colour = colour;
    (given.get("s") ?? "").split(",").slice(0, axes).forEach((text, j) => {
      const x = Number(text);
      if (text !== "" && Number.isFinite(x)) state.s[j] = Math.min(data.high[j], Math.max(data.low[j], x));
    });
    const [side, piece] = (given.get("w") ?? "").split(".");
    if (side === "plain" || side === "steered") {
      state.side = side;
      if (whole(Number(piece), 1e6)) state.piece = Number(piece);
    }
  }

  // ---- a picture of it ----

  function picture() {
    const ns = "http://www.w3.org/2000/svg", width = 860, margin = 24;
    const css = getComputedStyle(document.documentElement), ink = css.getPropertyValue("--ink"), paper = css.getPropertyValue("--paper"), soft = css.getPropertyValue("--soft");
    const fillColour = css.getPropertyValue("--fill");
    const svg = document.createElementNS(ns, "svg"), pen = document.createElement("canvas").getContext("2d");
    const put = (tag, attributes, text) => {
      const node = document.createElementNS(ns, tag);
      for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
      if (text !== undefined) node.textContent = text;
      return svg.appendChild(node);
    };
    const write = (x, y, text, more = {}) => put("text", { x, y, fill: ink, "font-size": 14, "xml:space": "preserve", ...more }, text);
    pen.font = "14px sans-serif";
    const ground = put("rect", { width, fill: paper });
    let y = margin + 14;
    write(margin, y, `${setting(state.s)} on ${data.model}: ${cost(state.s).toFixed(3)} nats of KL per token`, { "font-weight": "bold", "font-size": 16 });
    for (const side of ["plain", "steered"]) {
      const one = shownText(side);
      y += 34;
      write(margin, y, side === "plain" ? "Plain" : $("steered-at").textContent, { "font-weight": "bold" });
      y += 26;
      let x = margin;
      one.pieces.forEach((piece, i) => {
        const bare = piece.trimStart(), space = pen.measureText(piece.slice(0, piece.length - bare.length)).width, wide = pen.measureText(bare).width;
        if (x + space + wide > width - margin) { x = margin; y += 26; } else x += space;
        const { rgb, alpha } = tint(one, i);
        put("rect", { x: x - 1, y: y - 14, width: wide + 2, height: 19, rx: 3, fill: `rgb(${rgb.join(",")})`, "fill-opacity": alpha.toFixed(3) });
        write(x, y, bare, i < one.start ? { "font-style": "italic" } : {});
        x += wide;
      });
    }
    const found = distribution();
    if (found !== null) {
      const all = [...found.rows, found.rest], most = Math.max(...found.rows.map((row) => Math.max(row.p, row.plain)));
      y += 40;
      write(margin, y, `Next word after “…${shownText(state.side).pieces.slice(0, state.piece).join("").slice(-60)}”`, { "font-weight": "bold" });
      for (const row of all) {
        y += 22;
        write(margin + 190, y, row.label, { "text-anchor": "end", ...(row.written ? { "font-weight": "bold" } : {}) });
        if (row !== found.rest) {
          put("rect", { x: margin + 200, y: y - 12, width: (420 * row.p) / most, height: 15, fill: fillColour });
          put("rect", { x: margin + 199 + (420 * row.plain) / most, y: y - 14, width: 2, height: 19, fill: ink });
        }
        write(margin + 632, y, `${share(row.p)} (plain ${share(row.plain)})`, { "font-size": 12, fill: soft });
      }
    }
    const height = y + margin;
    ground.setAttribute("height", height);
    for (const [name, value] of Object.entries({ width, height, viewBox: `0 0 ${width} ${height}`, "font-family": "system-ui, 'DejaVu Sans', sans-serif" })) svg.setAttribute(name, value);
    return new XMLSerializer().serializeToString(svg);
  }
  function save() {
    const address = URL.createObjectURL(new Blob([picture()], { type: "image/svg+xml" }));
    element("a", { href: address, download: `steerlens-${data.names.map((name, j) => `${name.replace(/[^\p{L}\p{N}]+/gu, "-")}${Number(state.s[j].toFixed(2))}`).join("-")}.svg` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
    $("said").textContent = "Saved as SVG.";
  }

  // ---- hands ----

  function tip(word) {
    const box = $("tip");
    if (!word) { box.hidden = true; return; }
    const one = shownText(word.closest(".text").id), i = Number(word.dataset.piece), at = one.positions[i];
    const lines = data.names.map((name, j) => `evidence for ${name}: ${signed(one.evidence[j][i], 2)} nats`);
    if (at >= 0) {
      const p = (s) => share(Math.exp(logProbs(at, s, chebyshev(s))[0]));
      lines.unshift(`${p(zero)} plain, ${p(state.s)} at ${setting(state.s)}`);
    } else lines.unshift("not predicted: nothing is before it");
    box.textContent = lines.join("\n");
    box.hidden = false;
    const where = word.getBoundingClientRect();
    box.style.left = `${Math.max(8, Math.min(where.left, innerWidth - box.offsetWidth - 8))}px`;
    box.style.top = `${where.bottom + 6 + box.offsetHeight > innerHeight ? where.top - box.offsetHeight - 6 : where.bottom + 6}px`;
  }
  for (const side of ["plain", "steered"]) {
    const box = $(side);
    const choose = (piece) => {
      state.side = side;
      state.piece = Math.max(0, Math.min(shownText(side).pieces.length - 1, piece));
      draw();
      const word = box.querySelector("[aria-selected=true]");
      word.focus({ preventScroll: true });
      return word;
    };
    box.addEventListener("click", (event) => {
      const word = event.target.closest("[role=option]");
      if (word) choose(Number(word.dataset.piece));
    });
    box.addEventListener("keydown", (event) => {
      const here = Number(document.activeElement.dataset.piece), end = shownText(side).pieces.length - 1;
      const to = { ArrowRight: here + 1, ArrowDown: here + 1, ArrowLeft: here - 1, ArrowUp: here - 1, Home: 0, End: end, Enter: here, " ": here }[event.key];
      if (to === undefined || Number.isNaN(to)) return;
      event.preventDefault();
      tip(choose(to));
    });
    box.addEventListener("pointerover", (event) => tip(event.target.closest("[role=option]")));
    box.addEventListener("pointerleave", () => tip(null));
    box.addEventListener("focusout", () => tip(null));
  }
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") tip(null); });
  document.querySelectorAll(".strength").forEach((input, j) => {
    const axis = data.stops[j], step = (axis.at(-1) - axis[0]) / 100, move = (x) => {
      const stop = axis[nearest(axis, x)];
      state.s[j] = Math.abs(stop - x) < step / 2 ? stop : Math.min(axis.at(-1), Math.max(axis[0], x));
      draw();
    };
    input.addEventListener("input", () => move(Number(input.value)));
    input.addEventListener("keydown", (event) => {
      const by = { ArrowRight: step, ArrowUp: step, ArrowLeft: -step, ArrowDown: -step }[event.key];
      const near = nearest(axis, state.s[j]), page = { PageUp: near + 1, PageDown: near - 1, Home: 0, End: axis.length - 1 }[event.key];
      if (by === undefined && page === undefined) return;
      event.preventDefault();
      if (by !== undefined) { state.s[j] = Math.min(axis.at(-1), Math.max(axis[0], Number((state.s[j] + by).toFixed(6)))); draw(); }
      else move(axis[Math.max(0, Math.min(axis.length - 1, page))]);
    });
  });
  document.querySelectorAll(".zero").forEach((button, j) => button.addEventListener("click", () => { state.s[j] = 0; draw(); }));
  document.querySelectorAll("[name=colour]").forEach((input) => input.addEventListener("change", () => { state.colour = Number(input.value); draw(); }));
  $("prompt").addEventListener("change", (event) => { state.prompt = Number(event.target.value); state.piece = -1; draw(); });
  $("save").addEventListener("click", save);
  $("copy").addEventListener("click", async () => {
    const link = location.href.split("#")[0] + written;
    try {
      await navigator.clipboard.writeText(link);
      $("said").textContent = "Copied.";
    } catch {
      $("said").textContent = "The address of this page holds the view: copy it from there.";
    }
  });
  addEventListener("hashchange", () => { recall(); draw(); });
  recall();
  $("explorer").hidden = false;
  draw();
})();
