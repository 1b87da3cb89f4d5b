"""The type checker that the tests run the package under.

`is_pep484_tower` lets an `int` stand where a `float` is annotated, as PEP 484 says: `strength=2` is
a float.
"""

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

typechecked = beartype(conf=BeartypeConf(is_pep484_tower=True))


def first_of_each(jaxtyped: Callable[..., Any]) -> Callable[..., Any]:
    """Check of each function inside a function the first one that is made.

    They are made anew in every call of the outer one, and their checks with them, which took a
    sixth of the tests' time.
    """
    seen = set()

    def once(*, typechecker: Any) -> Callable[[Any], Any]:
        check = jaxtyped(typechecker=typechecker)

        def decorate(made: Any) -> Any:
            code = getattr(made, "__code__", None)
            if code is None or "<locals>" not in made.__qualname__:
                return check(made)
            if code in seen:
                return made
            seen.add(code)
            return check(made)

        return decorate

    return once
