"""What every figure script shares: two threads, no window, and where its files go. Imported before
anything that computes."""

import os
from pathlib import Path

for pool in ("OMP", "MKL"):
    os.environ.setdefault(f"{pool}_NUM_THREADS", "2")
os.environ.setdefault("MPLBACKEND", "Agg")

OUT = Path(__file__).parent / "out"
OUT.mkdir(exist_ok=True)
SHARED = Path(__file__).parent.parent.parent / "shared"
"""Small models and texts for trials, where they lie beside the repository."""
