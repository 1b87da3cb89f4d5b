"""Names of hooks, as in TransformerLens."""

EMBED = "hook_embed"


def resid_pre(layer: int) -> str:
    """Return the name of the residual stream's hook before a layer."""
    return f"blocks.{layer}.hook_resid_pre"


def resid_post(layer: int) -> str:
    """Return the name of the residual stream's hook behind a layer."""
    return f"blocks.{layer}.hook_resid_post"
