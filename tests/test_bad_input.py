"""What no function can use is refused by the name of its argument, and never ends in a number."""

import inspect
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import steerlens as sl
from steerlens.evaluate.advise import advise
from steerlens.evaluate.compare import compare
from steerlens.methods import baselines
from steerlens.methods.baselines.copies import FineTuning
from steerlens.models.sampling import Drawing, Warp
from steerlens.values.training import Training

SURROGATE = "\ud800"
"""Half a character, as a text that was cut inside an emoji holds it."""
NO_NUMBER = [
    "1",
    b"1",
    math.nan,
    math.inf,
    [1.0, 2.0],
    {},
    object(),
    1j,
    torch.zeros(2),
    pd.NA,
    True,
]
NO_NUMBERS = [
    "1",
    ["1"],
    10**400,
    [10**400],
    [math.nan],
    [],
    {},
    object(),
    [[1.0]],
    [None, [True]],
    [math.inf],
    None,
]
NO_COUNT = ["3", "", b"3", 1.5, math.nan, [2], {}, -1, True, object(), np.float64(2), 1j]
NO_SEED = ["x", "1", 1.5, math.nan, None, [1], object()]
NO_TEXTS = [None, 3, [], [3], [math.nan], [SURROGATE], {"a": 1}, {"x"}, object(), [None], [[]], [b"x"]]  # fmt: skip
NO_NAME = [3, None, b"joy", [], object(), SURROGATE]
NO_PATH = [3, None, "a\0b", [], object(), 1.5]


@dataclass(frozen=True, eq=False)
class World:
    """One of everything, and the like of another model."""

    model: Any
    other: Any
    data: sl.Labelled
    states: sl.States
    fit: sl.Fit
    other_states: sl.States
    other_fit: sl.Fit
    metric: sl.Metric
    halves: tuple[tuple[sl.Steer, sl.Steer], ...]
    folder: Path


@cache
def world() -> World:
    model, other = sl.load_model("toy-64"), sl.load_model("toy-96-llama")
    data = sl.toy.corpus("sentiment", n=60, seed=0)
    states, there = (sl.collect(m, data, progress=False) for m in (model, other))
    fit, other_fit = (sl.fit_steer(s, name="joy", progress=False) for s in (states, there))
    folder = Path(mkdtemp())
    sl.save(fit, folder / "joy.safetensors")
    (folder / "data.csv").write_text("text,label\ngood .,1\nbad .,-1\n")
    halves = sl.fit_split_halves(states, fit, pairs=1, progress=False)
    metric = sl.natural_metric(states)
    return World(
        model, other, data, states, fit, there, other_fit, metric, halves, folder
    )  # fmt: skip


class Long:
    """Takes pages to print, as a model does."""

    def __repr__(self) -> str:
        return "page " * 2_000


def no(kind: str) -> list[Any]:
    """Return what is not of a kind, things that are easily mistaken for it among them."""
    w = world()
    joy = w.fit.value
    strangers = [3, object(), [joy], {"joy": joy}, sl.load_model, sl.Steer]
    return {
        "model": ["toy-64", Path("toy-64"), None, 3, object(), [w.model], w.fit],
        "labelled": [None, "good", ["good"], {"text": ["a"], "label": [1]}, 3, object(),
                     pd.DataFrame({"text": ["a"], "label": [1.0]}), [("a", 1.0)]],
        "steer": ["joy", None, w.states, *strangers],
        "intervention": ["joy", w.states, w.metric, *strangers],
        "fit": ["joy", None, joy, w.states, *strangers],
        "states": ["x", None, 3, object(), w.data, [w.states], w.fit],
        "states?": ["x", 3, object(), w.data, w.other_states],
        "metric": ["natural", 3, object(), w.metric.C, sl.natural_metric(w.other_states), joy],
        "steer?": ["x", 3, object(), [joy], w.states],
        "pairs": ["x", 3, None, [], [3], [(joy,)], [joy], object(), joy],
        "layers": ["1", ["1"], [9], 1.5, [1.5], -1, [-1], {0: 1}, object(), [None], math.nan],
        "training": [None, "x", 3, {"epochs": 1}, Training],
        "number": NO_NUMBER, "numbers": NO_NUMBERS, "count": NO_COUNT, "seed": NO_SEED,
        "number+": [*NO_NUMBER, 0, -1], "number0": [*NO_NUMBER, -1],
        "count+": [*NO_COUNT, 0], "share": [*NO_NUMBER, -0.1, 1.1],
        "choice": ["nonsense", "", 3, [], {}, object(), SURROGATE, b"both"],
        "texts": NO_TEXTS, "text": [None, 3, [], ["a"], " ", SURROGATE, b"good", object()],
        "name": NO_NAME, "path": NO_PATH,
        "there": [*NO_PATH, "nowhere/joy.safetensors", w.folder, w.folder / "data.csv"],
        "tensor": ["x", None, 3, [], object(), np.eye(64), torch.zeros(3), torch.eye(3), torch.eye(64).long()],
        "strings": ["x", None, 3, [1], object(), ("a", 1)],
        "ids": ["x", None, 3, object(), [1.5], frozenset([1.5])],
        "columns": [None, "x", 3, [], {}, object()],
        "scale": ["x", 3, [], (1,), (1, 1), ("1", "5"), object(), (None, 1), (math.nan, 1)],
        "mapping": ["x", 3, [], object(), [("good", 1)]],
        "interventions": [{}, [joy], joy, "joy", None, 3, {"joy": "joy"}],
        "method": ["joy", 3, [joy], {"joy": joy}, object(), w.states],
        "classes": ["x", 3, None, [3], ["x"], object(), [sl.Labelled]],
        "steers": ["x", 3, None, [3], joy, object(), [w.other_fit.value], [joy]],
        "rules": ["x", 3, None, ["x"], [3], object(), {}],
        "pairs?": ["x", 3, None, [3], [(joy,)], [joy], object(), joy],
        "texts?": [x for x in NO_TEXTS if x != []],
        "numbers?": [x for x in NO_NUMBERS if x not in ([], {})],
        "strength": [x for x in NO_NUMBER if not isinstance(x, torch.Tensor)],
        "dtype": ["x", 3, None, torch.int32, [], object(), "int32"],
        "readout": ["toy-64", None, 3, object(), w.model, joy],
        "layer": ["1", "logits", 0.5, True, -1, 9, [1], {}, object(), math.nan],
        "sides": [None, 3, "good", ("good",), ("good", "terrible", "fine"), ("good", 3), ("good", " "), object(),
                  ("good", SURROGATE), ("good", "gloop"), ("good", "fine " * 200)],
        "words": ["x", None, 3, [], [3], ["ab"], [("good",)], [("good", 3)], [("good", "terrible", "fine")], object()],
        "leads": ["x", None, 3, {}, object(), [3], [(1,)], [[1.5]] * 20, [[-1]] * 20, [[10**9]] * 20, [[1] * 500] * 20],
        "word-ids": ["x", None, 3, object(), [], [1.5], [True], [-1], [10**9], {1}],
        "offset": ["x", None, 3, [], object(), np.eye(64), torch.eye(3), torch.zeros(3).long()],
        "noise": ["x", None, 3, 0.5, (0.5,), ("1", "2"), (0.1, 0.5), (1, 0), (math.inf, 1), object()],
    }[kind]  # fmt: skip


ASKED = {
    name: dict(one.split(":") for one in kinds.split())
    for name, kinds in {
        "Labelled": "texts:texts labels:numbers prompts:texts?",
        "Labelled.split": "share:share seed:seed",
        "Labelled.first": "n:count+",
        "Labelled.from_dict": "columns:columns text:choice label:choice scale:scale",
        "Training":
            "lr:number0 epochs:count+ batch_size:count+ patience:count+ warmup:share "
            "weight_decay:number0",
        "FineTuning": "lr:number0 epochs:count+ batch_size:count+ seed:seed",
        "Metric": "C:tensor S:tensor damping:number0 digest:text",
        "Readout":
            "W_U:tensor b_U:tensor tokens:strings special:ids scale:number softcap:number+ "
            "model_id:name",
        "Steer": "W:tensor readout:model name:name terms:pairs",
        "align": "src:model tgt:model weights:mapping ridge:number0 seed:seed",
        "classify":
            "model:model steer:steer train:labelled test:labelled prior:number+",
        "collect":
            "model:model data:texts intervention:intervention dtype:dtype memory:number0 seed:seed",
        "fit_prompt":
            "model:model data:labelled length:count+ kind:choice layers:layers prior:choice "
            "prior_weight:number0 encoder:choice background:steer? epochs:count+ "
            "training:training seed:seed name:name",
        "fit_reft":
            "model:model data:labelled variant:choice layers:layers rank:count+ positions:choice "
            "activation:choice background:steer? dropout:share epochs:count+ training:training "
            "seed:seed name:name",
        "fit_steer":
            "states:states solver:choice rank:count+ ridge:number0 damping:number0 lr:number+ weights:choice "
            "tolerance:number+ kl:number+ seed:seed name:name",
        "fit_split_halves": "states:states fit:fit pairs:count+ seed:seed",
        "natural_metric": "states:states damping:number0 weights:choice",
        "gap_closed":
            "model:model steer:steer attribute:choice strengths:numbers n:count+ seed:seed",
        "generate":
            "model:model prompts:texts intervention:intervention strengths:numbers samples:count+ "
            "seed:seed max_new_tokens:count+ temperature:number0 top_p:number+ top_k:count+",
        "highlight":
            "model:model steer:steer text:text strength:number against:number spans:count "
            "max_len:count+ sign:choice price:number0",
        "infer_strength":
            "model:model steer:steer texts:texts prior:number+ limit:number+ strengths:numbers?",
        "label_curve": "states:states steer:steer background:steer? strengths:numbers",
        "load": "path:there model:model kinds:classes",
        "load_model": "name:path device:choice dtype:dtype tokenizer:choice",
        "pair": "source:model target:model texts:texts memory:number0",
        "read_labelled":
            "path:path text:choice label:choice prompt:choice labels:mapping scale:scale",
        "read_metadata": "path:there",
        "readout": "model:model",
        "save": "value:steer path:path report:steer?",
        "score": "model:model texts:texts steer:intervention strengths:numbers",
        "singular_words":
            "steer:steer rank:count+ tokens:count+ metric:metric states:states? refits:pairs? "
            "noise:steers",
        "spectrum": "steer:steer metric:metric states:states?",
        "split_half_reliability": "steer:steer pairs:pairs rank:count+ metric:metric",
        "steered": "model:model intervention:intervention strength:strength prompt:count+",
        "strength_at_kl": "steer:steer states:states kl:number+",
        "toy.corpus": "attribute:choice n:count+ seed:seed",
        "transfer": "src:steer rule:choice alignment:steer? seed:seed",
        "transfer that reads": "text:texts source:model",
        "transfer_report":
            "src:fit tgt:fit data:states pairs:steer? home:states? rules:rules kl:number+ "
            "seed:seed",
        "written_attribute":
            "model:model steer:steer attribute:choice strengths:numbers prompts:texts "
            "samples:count+ seed:seed max_new_tokens:count+",
        "export.logit_steer": "steer:steer rank:count+",
        "export.fold": "model:model steer:steer strength:number",
        "evaluate.compare": "model:model interventions:interventions test:labelled kl:number+",
        "evaluate.advise":
            "model:model method:method data:labelled kl:number+ perplexity:number+ train:labelled "
            "seed:seed",
        "Ascent": "step_size:number+ n_iterations:count+ kl_scale:number0 fusion:share",
        "Langevin":
            "n_steps:count+ step_size:number+ noise:noise cooling:count+ margin:number+",
        "Recipe": "form:choice lr:number0 l2:number0",
        "DualSteering": "probe:tensor readout:readout name:name n_steps:count+",
        "FishBack":
            "favoured:word-ids avoided:word-ids readout:readout name:name n_steps:count+",
        "LogitBias": "offset:offset readout:readout name:name top:count+",
        "Shift": "vector:tensor site:name readout:readout name:name",
        "ValueLora": "A:tensor B:tensor layer:count readout:readout name:name",
        "causal_direction": "readout:readout pairs:words name:name",
        "fine_tuned_copy": "model:model texts:texts leads:leads tuning:training folder:path",
        "fit_causal_direction": "states:states name:name",
        "fit_ctrl":
            "model:model data:labelled codes:sides tuning:training folder:path name:name",
        "fit_dapt": "model:model data:labelled tuning:training folder:path name:name",
        "fit_dexperts": "model:model data:labelled tuning:training folder:path name:name",
        "fit_dual_steering": "states:states n_steps:count+ seed:seed name:name",
        "fit_fishback": "states:states n_words:count+ n_steps:count+ name:name",
        "fit_gedi":
            "model:model data:labelled codes:sides tuning:training folder:path name:name",
        "fit_latent_vectors":
            "model:model data:labelled layer:layer n_texts:count+ n_steps:count+ seed:seed "
            "name:name",
        "fit_lm_steer_recipe": "states:states recipe:training n_steps:count+ seed:seed name:name",
        "fit_log_odds": "states:states top:count+ prior:number+ name:name",
        "fit_logit_bias": "states:states seed:seed name:name",
        "fit_mean_difference": "model:model data:labelled layer:layer name:name",
        "fit_mucola": "model:model data:labelled langevin:training name:name",
        "fit_pplm": "model:model data:labelled ascent:training name:name",
        "fit_shift": "states:states seed:seed name:name",
        "fit_value_lora":
            "model:model data:labelled rank:count+ layer:layer background:steer? "
            "training:training seed:seed name:name",
        "instruct": "model:model instructions:sides name:name",
    }.items()
}  # fmt: skip
"""Of which kind each argument is of which a wrong value is given."""
UNASKED = {
    "progress",
    "end",
    "tied",
    "whole_words",
    "hooked",
    "plain",
    "centre",
    "dropna",
    "anti_only",
}
"""Truth values: whatever is not empty is true."""
NOT_YET = {
    "collect": {"strength", "folder"}, "fit_steer": {"data"}, "transfer": {"tgt"},
}  # fmt: skip
"""Arguments of which not every wrong value is refused by name yet, or whose kind is anything."""
RESULTS = {"Fit", "Intervention", "Mixture", "Reft", "Report", "SoftPrompt", "States"}
"""What functions make; nobody calls them by hand."""


@cache
def rivals() -> dict[str, Callable[..., Any]]:
    """Return what fits a rival of a steer, and what it makes and takes that checks itself."""
    found = {}
    for module in iter_modules(baselines.__path__, f"{baselines.__name__}."):
        for name, thing in vars(import_module(module.name)).items():
            own = getattr(thing, "__module__", None), getattr(thing, "__name__", None)
            if own == (module.name, name) and (
                name.startswith("fit_")
                or hasattr(thing, "__post_init__")
                or name in ("causal_direction", "fine_tuned_copy", "instruct")
            ):
                found[name] = thing
    return {k: f for k, f in found.items() if k not in ("fit_offsets", "fit_sign")}  # shared parts


def enter(model: Any, intervention: Any, strength: Any = 1.0, *, prompt: Any = None) -> None:
    """Enter and leave the block of `steered`."""
    with sl.steered(model, intervention, strength, prompt=prompt):
        pass


@cache
def good() -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Return each function with arguments that it takes."""
    w = world()
    joy, on = w.fit.value, sl.readout(w.model)
    quiet, one = {"progress": False}, Training(epochs=1)
    rules = ["congruence"]
    plain = {"text": ["a", "b"], "label": [1, -1]}
    tuning = {"epochs": 1, "batch_size": 1, "lr": 0.1, "seed": 0}
    few, vector, once = (
        w.data.first(24),
        torch.ones(64),
        FineTuning(lr=1e-3, epochs=1, batch_size=8),
    )
    copied = {"model": w.model, "data": few, "tuning": once}
    coded = copied | {"codes": ("good", "terrible")}
    rival = {
        "Ascent": {},
        "Langevin": {},
        "Recipe": {},
        "DualSteering": {"probe": vector, "readout": on},
        "FishBack": {"favoured": (5, 6), "avoided": (7,), "readout": on},
        "LogitBias": {"offset": torch.ones(5), "readout": on},
        "Shift": {"vector": vector, "site": "unembed.hook_in", "readout": on},
        "ValueLora": {"A": torch.ones(64, 2), "B": torch.ones(2, 64), "layer": 1, "readout": on},
        "causal_direction": {"readout": on, "pairs": [("terrible", "good")]},
        "fine_tuned_copy": {"model": w.model, "texts": few.texts, "tuning": once},
        "fit_causal_direction": {"states": w.states},
        "fit_ctrl": coded,
        "fit_dapt": copied,
        "fit_dexperts": copied,
        "fit_dual_steering": {"states": w.states},
        "fit_fishback": {"states": w.states, "n_words": 5},
        "fit_gedi": coded,
        "fit_latent_vectors": {"model": w.model, "data": few, "n_steps": 2},
        "fit_lm_steer_recipe": {"states": w.states, "n_steps": 2},
        "fit_log_odds": {"states": w.states},
        "fit_logit_bias": {"states": w.states},
        "fit_mean_difference": {"model": w.model, "data": few},
        "fit_mucola": {"model": w.model, "data": few},
        "fit_pplm": {"model": w.model, "data": few},
        "fit_shift": {"states": w.states},
        "fit_value_lora": {"model": w.model, "data": few, "rank": 1, "training": one, **quiet},
        "instruct": {"model": w.model, "instructions": ("good", "terrible")},
    }  # fmt: skip
    return {
        **{name: (rivals()[name], arguments) for name, arguments in rival.items()},
        "Labelled": (sl.Labelled, {"texts": ["a", "b"], "labels": [1, -1]}),
        "Labelled.split": (w.data.split, {"share": 0.5, "seed": 0}),
        "Labelled.first": (w.data.first, {"n": 3}),
        "Labelled.from_dict": (sl.Labelled.from_dict, {"columns": plain}),
        "Training": (sl.Training, {}),
        "FineTuning": (FineTuning, tuning),
        "Metric": (sl.Metric, {"C": w.metric.C, "S": w.metric.S}),
        "Readout": (sl.Readout, {"W_U": on.W_U, "b_U": on.b_U, "tokens": on.tokens}),
        "Steer": (sl.Steer, {"W": joy.W, "readout": on}),
        "align": (sl.align, {"src": w.model, "tgt": w.other}),
        "classify": (sl.classify, {"model": w.model, "steer": joy, "train": w.data, "test": w.data}),
        "collect": (sl.collect, {"model": w.model, "data": w.data, **quiet}),
        "fit_prompt": (sl.fit_prompt, {"model": w.model, "data": w.data, "length": 2, "epochs": 1, **quiet}),
        "fit_reft": (sl.fit_reft, {"model": w.model, "data": w.data, "rank": 1, "training": one, **quiet}),
        "fit_steer": (sl.fit_steer, {"states": w.states, **quiet}),
        "fit_split_halves": (sl.fit_split_halves, {"states": w.states, "fit": w.fit, "pairs": 1, **quiet}),
        "natural_metric": (sl.natural_metric, {"states": w.states}),
        "gap_closed": (sl.gap_closed, {"model": w.model, "steer": joy, "attribute": "tone", "n": 20}),
        "generate": (sl.generate, {"model": w.model, "prompts": ["the film"], "max_new_tokens": 2}),
        "highlight": (sl.highlight, {"model": w.model, "steer": joy, "text": "it was good ."}),
        "infer_strength": (sl.infer_strength, {"model": w.model, "steer": joy, "texts": ["good ."]}),
        "label_curve": (sl.label_curve, {"states": w.states, "steer": joy}),
        "load": (sl.load, {"path": w.folder / "joy.safetensors", "model": w.model}),
        "load_model": (sl.load_model, {"name": "toy-64"}),
        "pair": (sl.pair, {"source": w.model, "target": w.other, "texts": w.data, **quiet}),
        "read_labelled": (sl.read_labelled, {"path": w.folder / "data.csv"}),
        "read_metadata": (sl.read_metadata, {"path": w.folder / "joy.safetensors"}),
        "readout": (sl.readout, {"model": w.model}),
        "save": (sl.save, {"value": joy, "path": w.folder / "again.safetensors"}),
        "score": (sl.score, {"model": w.model, "texts": ["it was good ."]}),
        "singular_words": (sl.singular_words, {"steer": joy, "rank": 1, "tokens": 3}),
        "spectrum": (sl.spectrum, {"steer": joy}),
        "split_half_reliability": (sl.split_half_reliability, {"steer": joy, "pairs": w.halves, "rank": 1}),
        "steered": (enter, {"model": w.model, "intervention": joy}),
        "strength_at_kl": (sl.strength_at_kl, {"steer": joy, "states": w.states}),
        "toy.corpus": (sl.toy.corpus, {"attribute": "tone", "n": 6}),
        "transfer": (sl.transfer, {"src": w.fit, "tgt": w.other}),
        "transfer that reads": (sl.transfer, {"src": w.fit, "tgt": w.other, "rule": "distil", "text": w.data, "source": w.model}),
        "transfer_report": (sl.transfer_report, {"src": w.fit, "tgt": w.other_fit, "data": w.other_states, "rules": rules}),
        "written_attribute": (sl.written_attribute, {"model": w.model, "steer": joy, "attribute": "tone", "samples": 1}),
        "export.logit_steer": (sl.export.logit_steer, {"steer": joy}),
        "export.fold": (sl.export.fold, {"model": w.model, "steer": joy, "strength": 1.0, "path": w.folder / "folded"}),
        "evaluate.compare": (compare, {"model": w.model, "interventions": {"joy": joy}, "test": w.data}),
        "evaluate.advise": (advise, {"model": w.model, "method": joy, "data": w.data}),
    }  # fmt: skip


def test_every_argument_of_every_public_function_is_asked() -> None:
    public = {name: getattr(sl, name) for name in sl.__all__} | rivals()
    for name in public.keys() - RESULTS:
        function = public[name]
        if inspect.ismodule(function):
            continue
        asked = {a for n, kinds in ASKED.items() if n.split(" ")[0] == name for a in kinds}
        there = set(inspect.signature(function).parameters)
        assert asked <= there
        assert there - asked - UNASKED == NOT_YET.get(name, set()) - asked, name


@pytest.mark.parametrize("name", ASKED)
def test_what_is_right_is_taken(name: str) -> None:
    function, arguments = good()[name]
    function(**arguments)


@pytest.mark.parametrize("name, argument", [(n, a) for n, kinds in ASKED.items() for a in kinds])
def test_what_is_wrong_is_refused_by_the_name_of_its_argument(
    name: str, argument: str, unchecked: None
) -> None:
    function, arguments = good()[name]
    default = inspect.signature(function).parameters[argument].default
    for wrong in [*no(ASKED[name][argument]), Long()]:
        if wrong is None and default is None:
            continue
        with pytest.raises((ValueError, TypeError, OSError)) as refused:
            function(**arguments | {argument: wrong})
        # a column that is not there is named itself
        assert re.search(rf"\b({argument}|no column)\b", str(refused.value)), (wrong, refused.value)
        assert len(str(refused.value)) < 2_000, wrong  # what came is named, not printed whole


def numbers(found: Any) -> str:
    """Return what a function found, to be held against another time."""
    if isinstance(found, pd.DataFrame):
        return found.to_csv()
    if hasattr(found, "pack"):
        return numbers(found.pack()[0])
    if isinstance(found, dict):
        return str({key: numbers(value) for key, value in found.items()})
    if isinstance(found, torch.Tensor):
        return str(found.tolist())
    if isinstance(found, torch.nn.Module):
        return numbers(dict(found.named_parameters()))
    if isinstance(found, sl.Metric):
        return numbers(vars(found))
    return numbers(found.value) if isinstance(found, sl.Fit) else str(found)


NOT_ASKED_AGAIN = {
    "evaluate.advise", "evaluate.compare", "export.fold", "fit_ctrl", "fit_dapt", "fit_dexperts", "fit_gedi",
    "fit_prompt", "fit_split_halves", "gap_closed",
    "transfer that reads", "transfer_report", "written_attribute",
}  # fmt: skip
"""One writes a folder that must not be there yet, one says how long it took, four hold models that
`fine_tuned_copy` makes; the others take long."""


@pytest.mark.parametrize("name", sorted(ASKED.keys() - NOT_ASKED_AGAIN))
def test_what_torch_was_set_to_changes_no_number(name: str) -> None:
    """A notebook's default device and dtype, and autocast around it."""
    function, arguments = good()[name]
    before = numbers(function(**arguments))
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"), torch.autocast("cpu", dtype=torch.bfloat16):
            assert numbers(function(**arguments)) == before
            assert torch.get_default_device().type == "meta" and torch.is_autocast_enabled("cpu")
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=3), st.binary(max_size=3),
    st.complex_numbers(), st.lists(st.floats(), max_size=2), st.dictionaries(st.text(max_size=1), st.floats(), max_size=1),
    st.sampled_from([np.float32(1), np.int64(2), np.bool_(True), torch.tensor(1.5), torch.zeros(2), SURROGATE, object()]),
)  # fmt: skip
NUMBERS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "lr": (lambda x: Training(lr=x), "lr"),
    "epochs": (lambda x: Training(epochs=x), "epochs"),
    "warmup": (lambda x: Training(warmup=x), "warmup"),
    "top_p": (lambda x: Warp(top_p=x), "top_p"),
    "top_k": (lambda x: Warp(top_k=x), "top_k"),
    "temperature": (lambda x: Warp(temperature=x), "temperature"),
    "samples": (lambda x: Drawing(samples=x), "samples"),
    "seed": (lambda x: Drawing(seed=x), "seed"),
    "share": (lambda x: world().data.split(x, seed=0), "share"),
}


@pytest.mark.parametrize("name", NUMBERS)
@given(junk=JUNK)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_given_for_a_number_is_one_or_is_refused_by_name(
    name: str, junk: Any, unchecked: None
) -> None:
    make, argument = NUMBERS[name]
    said = None
    try:
        make(junk)
    except ValueError as error:
        said = str(error)
    if said is None:
        assert junk is None or (math.isfinite(float(junk)) and not isinstance(junk, str | bytes))
    assert said is None or said.startswith(f"{argument}:")


def test_a_steer_of_another_model_of_the_same_size_gives_no_number(unchecked: None) -> None:
    w, on = world(), sl.readout(world().model)
    elsewhere = sl.Readout(2 * on.W_U, on.b_U, on.tokens)
    steer = sl.Steer(w.fit.value.W, elsewhere)
    calls: tuple[Callable[[], Any], ...] = (
        lambda: sl.label_curve(w.states, steer),
        lambda: sl.gap_closed(w.model, steer, "tone", n=20),
        lambda: sl.strength_at_kl(steer, w.states),
        lambda: sl.spectrum(steer, states=w.states),
        lambda: sl.highlight(w.model, steer, "it was good ."),
    )
    for call in calls:
        with pytest.raises(ValueError, match="toy-64|lives on"):
            call()
