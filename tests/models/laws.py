"""What every model keeps that `readout` does not refuse, as one function for any of them."""

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

import steerlens as sl
from steerlens.methods.prompt.soft_prompt import prompt_sites
from steerlens.models.decoding import habits
from steerlens.models.hooks import adapter, apply_edits, convention, eval_mode, run_until
from steerlens.models.rows import check_rows
from steerlens.models.tokenization import encode_prompts
from steerlens.values.positions import TokenIndex
from tests.models.zoo import random_steer

TEXTS = ("the film was good .", "a very fine cast , and a slow plot ?", "we liked the food")
PROMPTS = ("the film was", "a very fine cast , and a")


class Failed(AssertionError):
    """A law that does not hold, with by how much."""


def near(found: Tensor, expected: Tensor, what: str, tolerance: float = 1e-4) -> None:
    """Fail where two tensors differ by more than a share of the second's size."""
    size = expected.float().abs().max().clamp_min(1e-6)
    error = float((found.float() - expected.float()).abs().max() / size)
    if not error <= tolerance:
        raise Failed(f"{what}: off by {error:.2g} of its size")


def laws() -> dict[str, Callable[[Any], None]]:
    """The laws by name, each a function of a model that fails where it does not hold."""
    return {
        "steered logits": steered_logits,
        "strength 0": strength_zero,
        "written": written,
        "scored": scored,
        "gradients": gradients,
        "fit": fit,
        "transfer": transfer,
        "distilled": distilled,
    }


@contextmanager
def head_input(model: Any) -> Any:
    """What enters the output embedding inside the block, by torch's own hook."""
    seen: list[Tensor] = []
    head = adapter(model).unembedding
    assert head is not None
    handle = head.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach()))
    try:
        yield seen
    finally:
        handle.remove()


def tokens_for(model: Any, rows: int = 3, width: int = 7) -> Tensor:
    n = min(len(adapter(model).tokenizer), adapter(model).W_U.shape[1])
    return torch.randint(1, n, (rows, width), generator=torch.Generator().manual_seed(1))


def run(model: Any, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return adapter(model).logits(tokens, torch.ones_like(tokens)).float()


def steered_logits(model: Any) -> None:
    """`post(scale · ((c + s cW) W_U + b_U))` by hand, a strength per row, and the plain ones too."""
    tokens, steer, on = tokens_for(model), random_steer(model), sl.readout(model)
    strengths = torch.tensor([-1.0, 0.5, 2.0])
    coarse = on.W_U.dtype != torch.float32
    tolerance = 3e-2 if coarse else 1e-4
    with head_input(model) as seen:
        plain = run(model, tokens)
    c = seen[0].float()
    if plain.std() < 1e-3:
        raise Failed("logits: all alike, so any read-out would do")

    def by_hand(c: Tensor) -> Tensor:
        W_U, b_U = adapter(model).W_U.detach().float(), adapter(model).b_U.detach().float()
        z = on.scale * (c.to(on.W_U.dtype).float() @ W_U + b_U)
        return z if on.softcap is None else on.softcap * torch.tanh(z / on.softcap)

    near(plain, by_hand(c), "logits", tolerance)
    with sl.steered(model, steer, strengths):
        found = run(model, tokens)
    expected = by_hand(c + strengths[:, None, None] * (c @ steer.W))
    near(found, expected, "steered logits", tolerance)
    if (found - plain).abs().max() < 1e-3 * plain.abs().max():
        raise Failed("steered logits: the steer does nothing")


def strength_zero(model: Any) -> None:
    tokens = tokens_for(model)
    plain = run(model, tokens)
    with sl.steered(model, random_steer(model), 0.0):
        if not torch.equal(run(model, tokens), plain):
            raise Failed("strength 0: not the plain model bit for bit")


def written(model: Any) -> None:
    """What is written in a batch, with cache and padding where they are used, is what whole passes
    over each prompt alone give, and so is its log-probability."""
    steer, words = random_steer(model), adapter(model).tokenizer
    half = adapter(model).W_U.dtype != torch.float32
    table = sl.generate(
        model, PROMPTS, steer, strengths=(0.0, 1.0), temperature=0, max_new_tokens=4
    )
    for prompt, strength, _, text, log_prob in table.itertuples(index=False):
        ids = encode_prompts(words, [prompt], convention(model, sl.readout(model)))[0]
        start, gained = len(ids), 0.0
        while len(ids) < start + 4 and (len(ids) == start or ids[-1] != words.eos_token_id):
            with sl.steered(model, steer, strength):
                log_p = torch.log_softmax(run(model, torch.tensor([ids]))[0, -1], 0)
            ids.append(int(log_p[: len(words)].argmax()))
            gained += float(log_p[ids[-1]])
        alone = words.decode(ids[start:], skip_special_tokens=True)
        if half:  # likeliest tokens tie there
            continue
        if text != alone:
            raise Failed(f"written: {text!r} in a batch, {alone!r} alone by whole passes")
        if abs(gained - log_prob) > 2e-3:
            raise Failed(f"written: log_prob off by {abs(gained - log_prob):.2g} nats")


def scored(model: Any) -> None:
    """A batch of texts, padded, is each text alone."""
    half = adapter(model).W_U.dtype != torch.float32
    together = sl.score(model, TEXTS, random_steer(model), strengths=(0.0, 1.0), end=False)
    for k, text in enumerate(TEXTS):
        alone = sl.score(model, [text], random_steer(model), strengths=(0.0, 1.0), end=False)
        for strength in (0.0, 1.0):
            part, one = (t[t.strength == strength] for t in (together[together.text == k], alone))
            error = abs(part.log_prob.to_numpy() - one.log_prob.to_numpy()).max()
            if not error < (0.3 if half else 2e-3):
                raise Failed(f"scored: a text in a batch is off by {error:.2g} nats from alone")


def gradients(model: Any) -> None:
    """They reach an edit at the unembedding, and behind the first layer where that has a hook."""
    found, tokens = adapter(model), tokens_for(model)
    for site in ("unembed.hook_in", "blocks.0.hook_resid_post"):
        if site not in found.hook_names:
            continue
        with eval_mode(model):
            width = run_until(model, site, tokens, torch.ones_like(tokens)).shape[-1]
        shift = torch.zeros(width, requires_grad=True)

        def edit(t: Tensor, _: TokenIndex, shift: Tensor = shift) -> Tensor:
            return t + shift.to(t.dtype)

        with eval_mode(model, gradients=True), apply_edits(model, ((site, edit),), _anywhere):
            logits = found.logits(tokens, torch.ones_like(tokens)).float()
            torch.log_softmax(logits, -1)[..., 1].sum().backward()
        if shift.grad is None or not bool(shift.grad.isfinite().all()) or not shift.grad.any():
            raise Failed(f"gradients: none reach an edit at {site}")
        if any(p.grad is not None for p in found.module.parameters()):
            raise Failed("gradients: the model's own numbers have some")


def _anywhere(_: int, t: Tensor) -> TokenIndex:
    rows, n = t.shape[:2]
    return TokenIndex(torch.arange(n).expand(rows, n), torch.full((rows,), n))


def fit(model: Any) -> None:
    data = sl.Labelled(TEXTS * 3, (1.0, -1.0, 0.5) * 3)
    states = sl.collect(model, data, progress=False)
    value = sl.fit_steer(states, solver="closed-form", progress=False).value
    if not bool(value.W.isfinite().all()):
        raise Failed("fit: the steer holds NaN")


def transfer(model: Any, move: Callable[..., sl.Steer] = sl.transfer) -> None:
    """Moved to the same words in another basis and back, a steer adds what it added."""
    steer, on = random_steer(model), sl.readout(model)
    W_U = on.W_U.detach().float()
    turn = torch.linalg.qr(torch.randn(len(W_U), len(W_U), generator=generator(2))).Q
    there = sl.Readout(turn @ W_U, on.b_U.float(), on.tokens, on.special, on.scale, on.softcap)
    moved = move(steer, there)
    c = torch.randn(5, len(W_U), generator=generator(3))
    near(c @ turn.mT @ moved.W @ there.W_U, c @ steer.W @ W_U, "transfer from the model", 1e-3)
    back = move(moved, model)
    near(c @ back.W @ W_U, c @ steer.W @ W_U, "transfer to the model", 1e-3)


def distilled(model: Any, move: Callable[..., sl.Steer] = sl.transfer) -> None:
    """Read off texts that the model has read itself, a steer is found again in part: it is held
    back where they say little."""
    steer, on = random_steer(model), sl.readout(model)
    W_U = on.W_U.detach().float()
    read = move(steer, model, rule="distil", text=TEXTS * 3, source=model)
    states = sl.collect(model, TEXTS, progress=False, end=False)
    c = torch.cat([shard.float() for shard, *_ in states.chunks(64)])
    p = on.logits(c).softmax(1)  # a word that is never likely says nothing

    def spread(u: Tensor) -> Tensor:
        return (p * (u - (p * u).sum(1, keepdim=True)).square()).sum()

    left = float(spread(c @ (read.W - steer.W) @ W_U) / spread(c @ steer.W @ W_U))
    if not left < 0.5:
        raise Failed(f"distilled: {left:.2f} of what the steer adds on a text is not found there")


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def prompts_read(model: Any) -> list[str]:
    """The kinds of prompts whose rows the model reads as the tokens that they stand for."""
    found, n = [], adapter(model).n_layers
    for kind, layers in (("soft", ()), ("deep", (n - 1,)), ("kv", tuple(range(n)))):
        try:
            check_rows(model, prompt_sites(kind, layers))
        except (ValueError, KeyError):
            continue
        found.append(kind)
    return found


def traces(model: Any) -> list[Any]:
    """What a verb could leave behind in a model: hooks, modes, flags, attributes."""
    module = adapter(model).module
    parts = list(module.modules())
    return [
        [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in parts],
        [m.training for m in parts],
        ["_call_impl" in vars(m) for m in parts],
        [p.requires_grad for p in module.parameters()],
    ]


def verdicts(model: Any, *, leave_out: tuple[str, ...] = ()) -> dict[str, str]:
    """What became of each law: "" where it holds, else why not; "readout" alone where it refuses."""
    with torch.no_grad():  # some classes set themselves up at their first pass
        adapter(model).logits(torch.zeros(1, 3, dtype=torch.long), None)
    before = traces(model)
    try:
        sl.readout(model)
    except (ValueError, KeyError, RuntimeError) as error:
        return {"readout": str(error)}
    found = {"readout": ""}
    for name, law in laws().items():
        if name in leave_out:
            continue
        try:
            law(model)
            found[name] = ""
        except Failed as failed:
            found[name] = str(failed)
        except (ValueError, KeyError) as error:
            found[name] = f"refused: {error}"
        except (RuntimeError, TypeError, AttributeError, IndexError, AssertionError) as error:
            found[name] = f"{type(error).__name__}: {error}"
    found["unchanged"] = "" if traces(model) == before else "unchanged: something was left behind"
    found["habits"] = str(habits(model))
    return found
