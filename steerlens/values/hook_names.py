"""Names of hooks, as in TransformerLens."""

EMBED = "hook_embed"


def resid_post(layer: int) -> str:
    """The hook of the residual stream behind a layer."""
    return f"blocks.{layer}.hook_resid_post"
