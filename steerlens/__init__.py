"""steerlens: steer a language model at its unembedding, and read, move and measure the steer.

import steerlens as sl

model = sl.load_model("toy-128")
data = sl.toy.corpus("sentiment", n=2000, seed=0)      # or sl.read_labelled("reviews.jsonl")
train, test = data.split(0.8, seed=0)
fit = sl.fit_steer(sl.collect(model, train), name="joy")
joy = fit.value
print(fit.report)
with sl.steered(model, joy, strength=2.0):
    print(model.generate("the film was", max_new_tokens=10, verbose=False))
print(sl.generate(model, ["the film was"], joy, strengths=(-2, 0, 2), samples=3, seed=0))
print(sl.singular_words(joy, rank=3, tokens=8))
sl.save(joy, "joy.safetensors", report=fit.report)
"""

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from steerlens.lazy import load_module

if TYPE_CHECKING:
    from steerlens import analysis as analysis
    from steerlens import evaluate as evaluate
    from steerlens import export as export
    from steerlens import models as models
    from steerlens import show as show
    from steerlens import toy as toy
    from steerlens.analysis.highlight import highlight as highlight
    from steerlens.analysis.svd import singular_words as singular_words
    from steerlens.analysis.svd import spectrum as spectrum
    from steerlens.analysis.svd import split_half_reliability as split_half_reliability
    from steerlens.analysis.transfer import align as align
    from steerlens.analysis.transfer import transfer as transfer
    from steerlens.analysis.transfer import transfer_report as transfer_report
    from steerlens.evaluate.classify import classify as classify
    from steerlens.evaluate.ground_truth import gap_closed as gap_closed
    from steerlens.evaluate.ground_truth import label_curve as label_curve
    from steerlens.evaluate.ground_truth import written_attribute as written_attribute
    from steerlens.evaluate.matched_kl import strength_at_kl as strength_at_kl
    from steerlens.evaluate.strength import infer_strength as infer_strength
    from steerlens.methods.files import load as load
    from steerlens.methods.files import read_metadata as read_metadata
    from steerlens.methods.files import save as save
    from steerlens.methods.prompt.fit import fit_prompt as fit_prompt
    from steerlens.methods.prompt.soft_prompt import SoftPrompt as SoftPrompt
    from steerlens.methods.reft.fit import fit_reft as fit_reft
    from steerlens.methods.reft.reft import Reft as Reft
    from steerlens.methods.steer.fit import fit_steer as fit_steer
    from steerlens.methods.steer.natural_metric import natural_metric as natural_metric
    from steerlens.methods.steer.refit import fit_split_halves as fit_split_halves
    from steerlens.models.collect import collect as collect
    from steerlens.models.generate import generate as generate
    from steerlens.models.load import load_model as load_model
    from steerlens.models.pair import pair as pair
    from steerlens.models.readout import readout as readout
    from steerlens.models.score import score as score
    from steerlens.models.steering import steered as steered
    from steerlens.values.fit import Fit as Fit
    from steerlens.values.fit import Report as Report
    from steerlens.values.intervention import Intervention as Intervention
    from steerlens.values.labelled import Labelled as Labelled
    from steerlens.values.metric import Metric as Metric
    from steerlens.values.readers import read_labelled as read_labelled
    from steerlens.values.readout import Readout as Readout
    from steerlens.values.states import States as States
    from steerlens.values.steer import Steer as Steer
    from steerlens.values.training import Training as Training

__version__ = "0.1.0"

# where each public name lives; loaded on first use, so that `import steerlens` costs nothing
_HOME = {
    "Fit": "values.fit",
    "Intervention": "values.intervention",
    "Labelled": "values.labelled",
    "Metric": "values.metric",
    "Readout": "values.readout",
    "Reft": "methods.reft.reft",
    "Report": "values.fit",
    "SoftPrompt": "methods.prompt.soft_prompt",
    "States": "values.states",
    "Steer": "values.steer",
    "Training": "values.training",
    "align": "analysis.transfer",
    "classify": "evaluate.classify",
    "collect": "models.collect",
    "fit_prompt": "methods.prompt.fit",
    "fit_reft": "methods.reft.fit",
    "fit_split_halves": "methods.steer.refit",
    "fit_steer": "methods.steer.fit",
    "gap_closed": "evaluate.ground_truth",
    "generate": "models.generate",
    "highlight": "analysis.highlight",
    "infer_strength": "evaluate.strength",
    "label_curve": "evaluate.ground_truth",
    "load": "methods.files",
    "load_model": "models.load",
    "natural_metric": "methods.steer.natural_metric",
    "pair": "models.pair",
    "read_labelled": "values.readers",
    "read_metadata": "methods.files",
    "readout": "models.readout",
    "save": "methods.files",
    "score": "models.score",
    "singular_words": "analysis.svd",
    "spectrum": "analysis.svd",
    "split_half_reliability": "analysis.svd",
    "steered": "models.steering",
    "strength_at_kl": "evaluate.matched_kl",
    "transfer": "analysis.transfer",
    "transfer_report": "analysis.transfer",
    "written_attribute": "evaluate.ground_truth",
}
# rooms with verbs of their own: `sl.show.plot_spectrum(...)`
_ROOMS = {name: name for name in ("analysis", "evaluate", "export", "models", "show", "toy")}
__all__ = sorted(_HOME | _ROOMS)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return load_module(f"steerlens.{_ROOMS[name]}")
    if name not in _HOME:
        near = ", ".join(get_close_matches(name, __all__, n=3)) or ", ".join(__all__)
        raise AttributeError(f"module 'steerlens' has no attribute {name!r}; nearest: {near}")
    return getattr(load_module(f"steerlens.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
