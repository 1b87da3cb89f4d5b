"""Cross-entropy through an unembedding, and its gradient with respect to the context vectors."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Head(NamedTuple):
    """The numbers of a read-out: `logits = softcap · tanh(scale · (c W_U + b_U) / softcap)`, no tanh if `softcap` is None."""

    W_U: Float[Tensor, "d vocab"]
    b_U: Float[Tensor, " vocab"]
    scale: float = 1.0
    softcap: float | None = None


def post(head: Head, z: Float[Tensor, "*batch vocab"]) -> Float[Tensor, "*batch vocab"]:
    """Scale and soft cap: what follows the matrix product."""
    if head.scale != 1.0:
        z = head.scale * z
    return z if head.softcap is None else head.softcap * torch.tanh(z / head.softcap)


def slope(head: Head, capped: Float[Tensor, "*batch vocab"]) -> Float[Tensor, "*batch vocab"] | float:
    """The derivative of `post` where it is `capped`: `scale · (1 − tanh²)`, the number `scale` where there is no soft cap."""
    return head.scale if head.softcap is None else head.scale * (1 - (capped / head.softcap) ** 2)


def logits(head: Head, c: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch vocab"]:
    """Logits of context vectors."""
    return post(head, c @ head.W_U + head.b_U)


def token_nll(z: Float[Tensor, "n vocab"], target: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """`-log softmax(z)[target]`, nats, one a row."""
    return torch.nn.functional.cross_entropy(z, target, reduction="none")


def nll_gradient(
    head: Head, c: Float[Tensor, "n d"], target: Int[Tensor, " n"], weight: Float[Tensor, " n"]
) -> Float[Tensor, "n d"]:
    """The gradient of `Σ w · nll` in `c`, by hand: two products with `W_U`, one buffer of size n × vocab.

        ∂/∂c = w · post'(z) (p − 1_target) W_Uᵀ

    Autograd would keep three buffers of that size. What only the loss needs is not computed.
    """
    z = post(head, torch.addmm(head.b_U, c, head.W_U))
    bend = slope(head, z)
    return _through(head, torch.softmax(z, 1, out=z), bend, target, weight)


def nll_and_gradient(
    head: Head, c: Float[Tensor, "n d"], target: Int[Tensor, " n"], weight: Float[Tensor, " n"]
) -> tuple[Float[Tensor, ""], Float[Tensor, "n d"]]:
    """`Σ w · nll` and its gradient in `c`; see `nll_gradient`. Reading the buffer twice more is what the loss costs."""
    z = post(head, torch.addmm(head.b_U, c, head.W_U))
    bend, top, at_target = slope(head, z), z.amax(1), z.gather(1, target[:, None]).squeeze(1)
    p = torch.softmax(z, 1, out=z)
    # the largest probability is at least 1/vocab, so its logarithm is safe where the target's would underflow
    loss = (weight * (top - p.amax(1).log() - at_target)).sum()
    return loss, _through(head, p, bend, target, weight)


def _through(
    head: Head,
    p: Float[Tensor, "n vocab"],
    bend: Float[Tensor, "n vocab"] | float,
    target: Int[Tensor, " n"],
    weight: Float[Tensor, " n"],
) -> Float[Tensor, "n d"]:
    """From probabilities, which are overwritten, and the slope of `post` to the gradient in `c`."""
    p[torch.arange(len(target), device=p.device), target] -= 1
    if isinstance(bend, Tensor):
        p *= bend
    else:  # on rows of d numbers instead of vocab
        weight = bend * weight
    return (p @ head.W_U.mT) * weight[:, None]


def kl_and_gradient(
    head: Head, c: Float[Tensor, "n d"], aim: Float[Tensor, "n d"], weight: Float[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n d"]]:
    """`KL(p ‖ q)` in nats, one a row, of `p` at context vectors `aim` from `q` at `c`, and the gradient of `Σ w · KL` in `c`.

    ∂/∂c = w · post'(z) (q − p) W_Uᵀ
    """
    z = post(head, torch.addmm(head.b_U, c, head.W_U))
    log_q, log_p = torch.log_softmax(z, 1), torch.log_softmax(logits(head, aim), 1)
    p = log_p.exp()
    kl = (p * (log_p - log_q)).sum(1)
    return kl, (weight[:, None] * slope(head, z) * (log_q.exp() - p)) @ head.W_U.mT
