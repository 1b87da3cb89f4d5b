"""Cross-entropy through an unembedding, and its gradient with respect to the context vectors."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class UnembedWeights(NamedTuple):
    """The numbers of a read-out: `logits = softcap · tanh(scale · (c W_U + b_U) / softcap)`, no
    tanh if `softcap` is None."""

    W_U: Float[Tensor, "d vocab"]
    b_U: Float[Tensor, " vocab"]
    scale: float = 1.0
    softcap: float | None = None


def apply_softcap(
    head: UnembedWeights, z: Float[Tensor, "*batch vocab"]
) -> Float[Tensor, "*batch vocab"]:
    """Apply the scale and the soft cap: what follows the matrix product."""
    if head.scale != 1.0:
        z = head.scale * z
    return z if head.softcap is None else head.softcap * torch.tanh(z / head.softcap)


def softcap_gradient(
    head: UnembedWeights, capped: Float[Tensor, "*batch vocab"]
) -> Float[Tensor, "*batch vocab"] | float:
    """Return the derivative of `apply_softcap` where it is `capped`: `scale · (1 − tanh²)`; just
    `scale` without a soft cap."""
    return head.scale if head.softcap is None else head.scale * (1 - (capped / head.softcap) ** 2)


def logits(head: UnembedWeights, c: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch vocab"]:
    """Return the logits of context vectors."""
    return apply_softcap(head, c @ head.W_U + head.b_U)


def token_nll(z: Float[Tensor, "n vocab"], target: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return `-log softmax(z)[target]`, nats, one per row."""
    return torch.nn.functional.cross_entropy(z, target, reduction="none")


def log_sum_exp(z: Float[Tensor, "n vocab"]) -> Float[Tensor, " n"]:
    """Return `log Σ exp z` of finite numbers, one per row.

    The fused cross-entropy is faster at it than `torch.logsumexp`.
    """
    return token_nll(z, torch.zeros(len(z), dtype=torch.long, device=z.device)) + z[:, 0]


def normalised(
    z: Float[Tensor, "n vocab"],
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n vocab"]]:
    """Return `log Σ exp z` and `softmax z` by one exponential each; `z` is overwritten.

    Of logits in bfloat16 the first is in float32.
    """
    exact = torch.promote_types(z.dtype, torch.float32)
    top = z.amax(1)
    p = torch.softmax(z, 1, out=z)
    # the largest probability is at least 1/vocab, so its logarithm is safe
    return top.to(exact) - p.amax(1).to(exact).log(), p


BLOCK = 4096
"""Words whose logits are read at once. A row of 50,257 is 200 kB: on a processor blocks of it stay
in the cache, products that make them run a quarter faster, and no array is so large that the system
hands out and clears its pages anew each time."""


def blocks(head: UnembedWeights) -> list[tuple[int, UnembedWeights]]:
    """Split the read-out into parts of the vocabulary, each with the id of its first word.

    On a GPU, and where it is small, it stays in one.
    """
    vocab = head.W_U.shape[1]
    n = 1 if head.W_U.is_cuda else -(-vocab // BLOCK)
    size = vocab if n == 1 else -(-vocab // (16 * n)) * 16  # rows that begin on a cache line
    return [
        (
            start,
            head._replace(
                W_U=head.W_U[:, start : start + size], b_U=head.b_U[start : start + size]
            ),
        )
        for start in range(0, vocab, size)
    ]


def to_bfloat16(head: UnembedWeights) -> UnembedWeights:
    """Return the read-out in bfloat16, for gradients that are random anyway.

    `nll_gradient` then makes its products in bfloat16. Without a soft cap the words' mean is taken
    out first. That changes no probability, and logits that are all far from 0 (GPT-2's are near
    −100) would be rounded to halves.
    """
    mean = 0.0 if head.softcap is not None else head.W_U.mean(1, keepdim=True)
    W_U = torch.empty_like(head.W_U, dtype=torch.bfloat16)
    for start, part in blocks(head):  # a large one never stands twice in float32
        W_U[:, start : start + part.W_U.shape[1]] = part.W_U - mean
    return head._replace(W_U=W_U, b_U=head.b_U.bfloat16())


def multiplies_bfloat16(device: torch.device) -> bool:
    """Return whether a device has instructions for products in bfloat16.

    Where it has none they are slower than in float32.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):  # not in PyTorch 2.6
        return False
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def quickest(head: UnembedWeights) -> UnembedWeights:
    """Return the read-out in bfloat16 where the device multiplies that, else as it is.

    For gradients and sums whose noise is far above what rounding does; see `to_bfloat16`.
    """
    return to_bfloat16(head) if multiplies_bfloat16(head.W_U.device) else head


def nll_gradient(
    head: UnembedWeights,
    c: Float[Tensor, "n d"],
    target: Int[Tensor, " n"],
    weight: Float[Tensor, " n"],
) -> Float[Tensor, "n d"]:
    """Return the gradient of `Σ w · nll` in `c`, by hand: two products with `W_U`, one buffer of
    size n × vocab.

        ∂/∂c = w · post'(z) (p − 1_target) W_Uᵀ

    Autograd would keep three buffers of that size. What only the loss needs is not computed. Both
    products are in the dtype of the read-out, what comes of them in that of the weights.
    """
    c, parts = c.to(head.W_U.dtype), blocks(head)
    if len(parts) > 1:
        return _gradient_in_parts(head, parts, c, target, weight)
    z = apply_softcap(head, torch.addmm(head.b_U, c, head.W_U))
    bend = softcap_gradient(head, z)
    return _through(head, torch.softmax(z, 1, out=z), bend, target, weight)


def _gradient_in_parts(
    head: UnembedWeights,
    parts: list[tuple[int, UnembedWeights]],
    c: Float[Tensor, "n d"],
    target: Int[Tensor, " n"],
    weight: Float[Tensor, " n"],
) -> Float[Tensor, "n d"]:
    """Compute `nll_gradient` from the softmax within each part and each part's share of the
    probability."""
    sizes, means = [], []
    for _, part in parts:
        z = apply_softcap(head, torch.addmm(part.b_U, c, part.W_U))
        bend, top = softcap_gradient(head, z), z.amax(1)
        p = torch.softmax(z, 1, out=z)
        # logΣexp z: the largest probability is at least 1/words
        sizes.append(top.to(weight) - p.amax(1).to(weight).log())
        means.append((p * bend if isinstance(bend, Tensor) else p) @ part.W_U.mT)
    share = torch.stack(sizes).softmax(0)[..., None]
    # by rows: a tied read-out lies word by word in memory, and `index_select` of its columns would
    # walk through all of it
    e = head.W_U.mT[target]
    mean = (share * torch.stack(means)).sum(0)
    bend = softcap_gradient(head, apply_softcap(head, (c * e).sum(1) + head.b_U[target]))
    if isinstance(bend, Tensor):
        return weight[:, None] * (mean - bend[:, None] * e)
    return (bend * weight)[:, None] * (mean - e)


def nll_and_gradient(
    head: UnembedWeights,
    c: Float[Tensor, "n d"],
    target: Int[Tensor, " n"],
    weight: Float[Tensor, " n"],
) -> tuple[Float[Tensor, ""], Float[Tensor, "n d"]]:
    """Return `Σ w · nll` and its gradient in `c`; see `nll_gradient`.

    Reading the buffer twice more is what the loss costs.
    """
    z = apply_softcap(head, torch.addmm(head.b_U, c, head.W_U))
    bend, top, at_target = (
        softcap_gradient(head, z),
        z.amax(1),
        z.gather(1, target[:, None]).squeeze(1),
    )
    p = torch.softmax(z, 1, out=z)
    # the largest probability is at least 1/vocab, so its logarithm is safe where the target's would
    # underflow
    loss = (weight * (top - p.amax(1).log() - at_target)).sum()
    return loss, _through(head, p, bend, target, weight)


def _through(
    head: UnembedWeights,
    p: Float[Tensor, "n vocab"],
    bend: Float[Tensor, "n vocab"] | float,
    target: Int[Tensor, " n"],
    weight: Float[Tensor, " n"],
) -> Float[Tensor, "n d"]:
    """Return the gradient in `c` from probabilities, which are overwritten, and the slope of
    `apply_softcap`."""
    p[torch.arange(len(target), device=p.device), target] -= 1
    if isinstance(bend, Tensor):
        p *= bend
    else:  # on rows of d numbers instead of vocab
        weight = bend * weight
    return (p @ head.W_U.mT) * weight[:, None]


def kl_and_gradient(
    head: UnembedWeights,
    c: Float[Tensor, "n d"],
    aim: Float[Tensor, "n d"],
    weight: Float[Tensor, " n"],
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n d"]]:
    """Return `KL(p ‖ q)` in nats, one per row, and the gradient of `Σ w · KL` in `c`.

    `p` is at context vectors `aim`, `q` at `c`.

    ∂/∂c = w · post'(z) (q − p) W_Uᵀ
    """
    z = apply_softcap(head, torch.addmm(head.b_U, c, head.W_U))
    log_q, log_p = torch.log_softmax(z, 1), torch.log_softmax(logits(head, aim), 1)
    p = log_p.exp()
    kl = (p * (log_p - log_q)).sum(1)
    return kl, (weight[:, None] * softcap_gradient(head, z) * (log_q.exp() - p)) @ head.W_U.mT
