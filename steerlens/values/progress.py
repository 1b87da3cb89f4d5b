"""Whether a bar is shown."""

import os


def hidden(progress: bool) -> bool:
    """Return whether a bar is to stay away: it was not asked for, or TQDM_DISABLE is set (tqdm
    itself reads that only where `disable` is left alone)."""
    return not progress or os.environ.get("TQDM_DISABLE", "0") not in ("", "0")
