"""Figures of what the package measures, and the pages of `steerlens report` and `steerlens explore`.

Every `plot_…` takes a table or a result of the package, draws on the axes it is given or on new
ones that are as wide as a column of a paper (8.5 cm), and returns them. The look is its own
whatever style is set, light or dark, and no setting is left changed.

Example:
    >>> import pandas as pd
    >>> import steerlens.show as show
    >>> table = pd.DataFrame({"strength": [-1.0, 1.0], "attribute": [-0.5, 0.5]})
    >>> show.plot_written_attribute(table, name="joy").get_ylabel()
    'strength'
"""

from typing import TYPE_CHECKING

from steerlens.lazy import lazily

if TYPE_CHECKING:
    from steerlens.show.compare import plot_at_kl as plot_at_kl
    from steerlens.show.compare import plot_rows as plot_rows
    from steerlens.show.explorer.build import explore as explore
    from steerlens.show.explorer.widget import explore_live as explore_live
    from steerlens.show.few_texts import plot_few_texts as plot_few_texts
    from steerlens.show.figures import plot_gap_closed as plot_gap_closed
    from steerlens.show.figures import plot_label_curve as plot_label_curve
    from steerlens.show.figures import plot_singular_words as plot_singular_words
    from steerlens.show.figures import plot_written_attribute as plot_written_attribute
    from steerlens.show.figures import save_figure as save_figure
    from steerlens.show.losses import plot_cost as plot_cost
    from steerlens.show.losses import plot_losses as plot_losses
    from steerlens.show.priors import plot_compression as plot_compression
    from steerlens.show.priors import plot_moves as plot_moves
    from steerlens.show.priors import plot_priors as plot_priors
    from steerlens.show.priors import plot_readability as plot_readability
    from steerlens.show.reading import plot_components as plot_components
    from steerlens.show.reading import plot_highlight as plot_highlight
    from steerlens.show.reading import plot_spectrum as plot_spectrum
    from steerlens.show.reading import plot_text_strengths as plot_text_strengths
    from steerlens.show.reft import plot_composition as plot_composition
    from steerlens.show.reft import plot_memory as plot_memory
    from steerlens.show.reft import plot_quality as plot_quality
    from steerlens.show.reft import plot_subspaces as plot_subspaces
    from steerlens.show.report.build import write_report as write_report
    from steerlens.show.scaling import plot_scaling as plot_scaling
    from steerlens.show.style import label_panels as label_panels
    from steerlens.show.style import look as look
    from steerlens.show.text import continuations as continuations
    from steerlens.show.trajectories import plot_clusters as plot_clusters
    from steerlens.show.trajectories import plot_map as plot_map
    from steerlens.show.trajectories import plot_steps as plot_steps
    from steerlens.show.transfer import plot_transfer as plot_transfer

# where each public name lives; loaded on first use, for matplotlib takes a second to import
_HOME = {
    "continuations": "text",
    "explore": "explorer.build",
    "explore_live": "explorer.widget",
    "plot_at_kl": "compare",
    "plot_clusters": "trajectories",
    "plot_components": "reading",
    "plot_composition": "reft",
    "plot_compression": "priors",
    "plot_cost": "losses",
    "plot_few_texts": "few_texts",
    "plot_gap_closed": "figures",
    "plot_highlight": "reading",
    "plot_label_curve": "figures",
    "plot_losses": "losses",
    "plot_map": "trajectories",
    "plot_memory": "reft",
    "plot_moves": "priors",
    "plot_priors": "priors",
    "plot_quality": "reft",
    "plot_rows": "compare",
    "plot_readability": "priors",
    "plot_scaling": "scaling",
    "plot_singular_words": "figures",
    "plot_spectrum": "reading",
    "plot_steps": "trajectories",
    "plot_subspaces": "reft",
    "plot_text_strengths": "reading",
    "plot_transfer": "transfer",
    "plot_written_attribute": "figures",
    "label_panels": "style",
    "look": "style",
    "save_figure": "figures",
    "write_report": "report.build",
}
__all__ = list(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]
__getattr__, __dir__ = lazily(__name__, _HOME)
