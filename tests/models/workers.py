"""What the workers of the tests load: a model, and one that ends a process in the middle."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import steerlens as sl


def load() -> Any:
    return sl.load_model("toy-64")


def load_plain() -> Any:
    return sl.load_model("toy-64", plain=True)


def load_mortal(marker: Path, victim: int | None = None) -> Any:
    """A model that ends a process by SIGKILL in its twelfth pass, the first time that one gets so
    far: the one it runs in, or a victim.

    The first six passes are checks, so that some parts are done by then, and one is half done.
    """
    model = load_plain()
    passes = 0

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1
        if passes != 12 or marker.exists():
            return
        marker.touch()
        os.kill(victim or os.getpid(), signal.SIGKILL)
        time.sleep(1)

    model.model.register_forward_pre_hook(count)
    return model


def logging(folder: Path) -> Any:
    """A model whose load leaves a file that is named by its process."""
    (folder / f"{os.getpid()}-{time.monotonic_ns()}").touch()
    return load_plain()


def fitted(folder: Path, seed: int) -> sl.Fit:
    states = sl.models.read_states(folder)
    return sl.fit_steer(states, solver="closed-form", seed=seed, progress=False)
