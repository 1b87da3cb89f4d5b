"""The rules by which a steer is moved to another model.

Apart from `analysis.transfer`, so that the command line can refuse a rule before torch is loaded.
"""

from typing import Literal, get_args

Rule = Literal["congruence", "similarity", "procrustes", "authors", "paired", "distil", "selftrain"]
RULES: tuple[Rule, ...] = get_args(Rule)
READ_TEXT: tuple[Rule, ...] = ("paired", "distil", "selftrain")
"""Rules that need text, without labels, and the source model to read it."""
