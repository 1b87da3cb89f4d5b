"""Whether a bar is shown."""

import os
import sys


def hidden(progress: bool) -> bool:
    """Return whether a bar is to stay away: it was not asked for, there is nowhere to show it (a
    program without a console), or TQDM_DISABLE is set (tqdm itself reads that only where `disable`
    is left alone)."""
    return (
        not progress or sys.stderr is None or os.environ.get("TQDM_DISABLE", "0") not in ("", "0")
    )
