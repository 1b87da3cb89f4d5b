"""Things that tests of the analyses share."""

import torch

from steerlens.analysis.embeddings import Embedding


def made(n: int, d: int, seed: int = 0) -> Embedding:
    """Words whose stems all differ, with normal vectors."""
    words = tuple(
        "q" + "".join("bcdfghjklm"[int(digit)] for digit in f"{i:03d}") + "x" for i in range(n)
    )
    return Embedding(words, torch.randn(n, d, generator=torch.Generator().manual_seed(seed)))
