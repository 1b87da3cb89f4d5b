"""How much text one edit of one token can hold."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from steerlens.maths.logits import apply_softcap, token_nll
from steerlens.maths.numbers import generator
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.methods.reft.reft import Reft, edits_at
from steerlens.methods.training import backward
from steerlens.models.hooks import Model, adapter, convention, eval_mode, run_until
from steerlens.models.partial_forward import batch_of, cache_residuals_of_tokens, final_states
from steerlens.models.readout import readout
from steerlens.models.tokenization import Encoded, encode_prompts
from steerlens.values.hook_names import resid_post
from steerlens.values.progress import hidden
from steerlens.values.readout import Readout
from steerlens.values.steer import zero_steer

AHEAD = 4
"""Tokens behind the best prefix so far that are learned too: what comes later cannot be recovered
before them."""


@dataclass(frozen=True, eq=False)
class Memories:
    """Edits that make a model say given tokens behind a prompt.

    Args:
        table: one row a sequence: `sequence` (its index), `length` (tokens), `recovered` (tokens
            that greedy decoding gets right before its first mistake), `nll_before` and `nll` (nats
            per token, without and with the edit), `stored` (nats in all that the edit saves).
        edits: one a sequence, rank 1, at the last token of the prompt.
    """

    table: pd.DataFrame
    edits: tuple[Reft, ...]


@torch_defaults()
def memorise(
    model: Model,
    sequences: Sequence[Sequence[int]],
    *,
    layer: int,
    prompt: str = "",
    steps: int = 500,
    lr: float = 0.1,
    seed: int = 0,
    progress: bool = True,
) -> Memories:
    """Learn rank-1 edits at the last token of a prompt.

    Each of them makes the model go on with one sequence.

    Behind one prompt the edited state is always the same `h`, and every variant of ReFT with a
    subspace can then add any vector `v` and nothing else: consreft with `R = v/‖v‖`,
    `b = ‖v‖ + R·h` adds exactly `v`, and so does loreft with the same and `A = 0`. So the vector
    itself is what is learned, `d_model` numbers a sequence, all sequences at once, by Adam with a
    learning rate that falls to zero; the edits are made of it afterwards. Descent may miss what
    there is: `recovered` is a lower bound. Source: the memorisation experiment of Wu et al. (arXiv
    2404.03592), with tokens for characters.

    Args:
        model: unchanged afterwards.
        sequences: token ids; with the prompt they must fit the context.
        layer: behind which layer the edit is.
        prompt: what comes before; "" is begin-of-text alone.
        steps: of Adam; it stops when all sequences are recovered.
        lr: of Adam, at the beginning, in units of the norm of `h`.
        seed: of the start, a vector of a hundredth of that norm.

    Raises:
        ValueError: no sequence, an empty one, tokens that are not there or too many of them, no
            token in the prompt.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> memorise(model, [[5], [6]], layer=0, steps=100, progress=False).table.recovered.tolist()
        [1, 1]
    """
    on, how = readout(model), convention(model, readout(model))
    begin = encode_prompts(adapter(model).tokenizer, [prompt], how)[0]
    if steps < 1 or not lr > 0:
        raise ValueError(f"steps, lr: got {steps} and {lr}, expected at least 1, and a number > 0")
    _check(sequences, begin, layer, adapter(model).n_layers, on.n_tokens, how.n_ctx)
    ids = [[*begin, *sequence] for sequence in sequences]
    kept = cache_residuals_of_tokens(
        model, Encoded(ids, [len(begin)] * len(ids), 0), torch.zeros(len(ids)), layer
    )
    batch = batch_of(kept, range(len(ids)))
    with eval_mode(model):
        bare = final_states(model, kept, batch, ())
    lengths = torch.tensor([len(sequence) for sequence in sequences], device=bare.device)
    row = torch.repeat_interleave(torch.arange(len(ids), device=bare.device), lengths)
    place = torch.arange(len(row), device=bare.device) - (lengths.cumsum(0) - lengths)[row]
    h = _state(model, kept.readout, begin, layer)
    size = float(h.norm())
    start = torch.randn(len(ids), len(h), generator=generator(seed)).to(h)
    v = (start * (0.01 * size / start.norm(dim=1, keepdim=True))).requires_grad_(True)
    optimiser = torch.optim.Adam([v], lr=lr * size / len(h) ** 0.5)
    falling = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda k: 1 - k / steps)
    none, best = zero_steer(on), _Best(on, batch.targets, row, lengths, bare, v.detach())
    with (
        eval_mode(model, gradients=True),
        tqdm(total=steps, unit="step", desc="memorise", disable=hidden(progress)) as bar,
    ):
        for _ in range(steps):
            optimiser.zero_grad()
            # every token of the prompt's end gets the row's own vector
            edits = edits_at((layer,), "l1", 1, lambda t, k, places: v[:, None].expand_as(t), 1.0)
            c = final_states(model, kept, batch, edits)
            best.look(c.detach(), v.detach())
            if best.whole:
                break
            near = (place < best.recovered[row] + AHEAD).float()
            backward(
                kept,
                c,
                batch.targets,
                near / near.new_zeros(len(ids)).index_add(0, row, near)[row],
                none,
            )
            optimiser.step()
            falling.step()
            bar.update()
    return best.memories(h, layer)


class _Best:
    """The best vector of each sequence so far: the most tokens recovered, then the lowest NLL."""

    def __init__(
        self,
        on: Readout,
        targets: Int[Tensor, " n"],
        row: Int[Tensor, " n"],
        lengths: Int[Tensor, " rows"],
        bare: Tensor,
        like: Float[Tensor, "rows d_resid"],
    ) -> None:
        self.on, self.targets, self.row, self.lengths = on, targets, row, lengths
        self.recovered, self.before = self._score(bare)
        self.nll = self.before.clone()
        self.v = torch.zeros_like(like)  # no edit at all, until one is better

    @property
    def whole(self) -> bool:
        return bool((self.recovered == self.lengths).all())

    def look(self, c: Float[Tensor, "n d"], v: Float[Tensor, "rows d_resid"]) -> None:
        recovered, nll = self._score(c)
        better = (recovered > self.recovered) | ((recovered == self.recovered) & (nll < self.nll))
        self.v[better] = v[better]
        self.recovered = torch.where(better, recovered, self.recovered)
        self.nll = torch.where(better, nll, self.nll)

    def _score(
        self, c: Float[Tensor, "n d"]
    ) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"]]:
        """Return how many tokens are right before the first mistake, and the mean NLL.

        Up to there greedy decoding reads what is read here.
        """
        head = self.on.head
        z = apply_softcap(head, c @ head.W_U + head.b_U)
        wrong = z[:, : self.on.n_tokens].argmax(1) != self.targets
        before = wrong.long().cumsum(0)
        starts = self.lengths.cumsum(0) - self.lengths
        # mistakes of the rows before do not count
        mistakes = before - (before[starts] - wrong[starts].long())[self.row]
        zero = torch.zeros(len(self.lengths), device=c.device)
        nll = zero.index_add(0, self.row, token_nll(z, self.targets)) / self.lengths
        return zero.index_add(0, self.row, (mistakes == 0).float()).long(), nll

    def memories(self, h: Float[Tensor, " d_resid"], layer: int) -> Memories:
        edits = []
        for k, v in enumerate(self.v):
            size = v.norm()
            R = (
                v / size
                if float(size) > 0
                else torch.nn.functional.one_hot(torch.tensor(0), len(v)).to(v)
            )
            b = size + R @ h
            edits.append(
                Reft(
                    R[None, None],
                    None,
                    b[None, None],
                    "consreft",
                    (layer,),
                    "l1",
                    self.on,
                    name=f"memory {k}",
                )
            )
        table = pd.DataFrame(
            {
                "sequence": range(len(self.lengths)),
                "length": self.lengths.tolist(),
                "recovered": self.recovered.tolist(),
                "nll_before": self.before.tolist(),
                "nll": self.nll.tolist(),
                "stored": ((self.before - self.nll) * self.lengths).tolist(),
            }
        )
        return Memories(table, tuple(edits))


def _state(model: Model, on: Readout, begin: list[int], layer: int) -> Float[Tensor, " d_resid"]:
    """Return the state behind a layer at the last token of the prompt."""

    tokens = torch.tensor([begin], device=on.W_U.device)
    with eval_mode(model):
        return run_until(model, resid_post(layer), tokens, torch.ones_like(tokens))[0, -1].float()


def _check(
    sequences: Sequence[Sequence[int]],
    begin: list[int],
    layer: int,
    n_layers: int,
    n_tokens: int,
    n_ctx: int,
) -> None:
    if not sequences or not all(len(s) for s in sequences):
        raise ValueError("sequences: got none, or an empty one; expected lists of token ids")
    if not begin:
        raise ValueError(
            "prompt: it holds no token and this model has no begin-of-text; give at least a word"
        )
    if not 0 <= layer < n_layers:
        raise ValueError(f"layer: got {layer}, expected 0 … {n_layers - 1}")
    longest = max(map(len, sequences))
    if len(begin) + longest > n_ctx:
        raise ValueError(
            f"sequences: {longest} tokens and {len(begin)} of the prompt, the context is {n_ctx}; shorten them"
        )
    wrong = [t for s in sequences for t in s if not 0 <= t < n_tokens]
    if wrong:
        raise ValueError(f"sequences: token {wrong[0]} is not among the {n_tokens} of this model")
