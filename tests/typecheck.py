"""The type checker that the tests run the package under.

`is_pep484_tower` lets an `int` stand where a `float` is annotated, as PEP 484 says: `strength=2` is
a float.
"""

from beartype import BeartypeConf, beartype

typechecked = beartype(conf=BeartypeConf(is_pep484_tower=True))
