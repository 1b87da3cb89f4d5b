"""What a model is made of, so that what was found out about it is asked anew once it is another."""

from steerlens.models.adapters import Adapter


def fingerprint(found: Adapter) -> int:
    """Return a number that is another one once modules or configuration of a model are others.

    Numbers of its weights do not count. Some hundred modules take a fraction of a millisecond.

    Example:
        >>> import steerlens as sl
        >>> from steerlens.models.hooks import adapter
        >>> found = adapter(sl.load_model("toy-64"))
        >>> before = fingerprint(found)
        >>> found.model.cfg.n_ctx -= 1
        >>> fingerprint(found) == before
        False
    """
    modules = tuple((id(module), type(module)) for module in found.module.modules())
    return hash((modules, tuple(str(vars(c)) for c in found.configs if hasattr(c, "__dict__"))))
