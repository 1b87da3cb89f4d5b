"""Put a steer into a model's weights: a plain checkpoint, for anybody's loader."""

import copy
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor

from steerlens.maths.numbers import generator
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.models.adapters import HuggingFace
from steerlens.models.adapters.hugging_face import tokenizer_of
from steerlens.models.guards import is_steered
from steerlens.models.hooks import Model, adapter, add_hooks, architecture, eval_mode
from steerlens.models.plain_source import head_name, plain_source
from steerlens.models.readout import PROBE_TOLERANCE, readout
from steerlens.models.steering import check_lives_on, steered
from steerlens.models.weights import without_bars
from steerlens.values.affine import AffineSteer, affine_map
from steerlens.values.atomic import write_json
from steerlens.values.fit import Fit, value_of
from steerlens.values.intervention import UNEMBED_IN
from steerlens.values.paths import as_path
from steerlens.values.readout import Readout
from steerlens.values.steer import Steer, SteerWithBackground

WRAPPED = "._original_component"
"""What TransformerLens' bridge puts into the names of the parameters that it wraps."""
NOTE = "steerlens.json"
"""The file of a folded checkpoint that says what is in it."""


@torch_defaults()
def fold(
    model: Model,
    steer: Steer | AffineSteer | SteerWithBackground | Fit,
    strength: float,
    path: str | Path,
    *,
    overwrite: bool = False,
) -> Path:
    """Write a plain Hugging Face checkpoint that is the steered model, at no cost when it runs.

        head' = (I + sW) W_U        over a background D: (I + D + sW) W_U

    The constant `v` of an affine steer becomes a bias: of the head, `b_U + s v W_U`, where it has
    one; else of the norm before it, `β + s v (I + sW)⁻¹`.

    The head is untied from the input embeddings, which stay as they are; its bias, a scale and a
    soft cap come after it and stay too. The checkpoint is loaded again by plain transformers and its
    logits compared with those of the hooked model; only then it is put in place. The tokenizer of
    a plain model goes with it as it is; of a bridge the one beside its weights, for TransformerLens'
    copy puts begin-of-text first (a bridge made in memory comes without). Other formats (GGUF, fewer bits) are made from the
    checkpoint with their own converters.

    Args:
        model: a `TransformerBridge` with raw weights, as `steerlens.load_model` gives it.
        steer: a `Steer`, an `AffineSteer`, or a steer over its background; a `Fit` stands for its
            value.
        strength: a number; other strengths are other checkpoints.
        path: a folder that does not exist, or is empty.
        overwrite: replace a folder that holds an earlier fold.

    Raises:
        FileExistsError: something is there already.
        RuntimeError: inside a `steered` block of the model.
        ValueError: the steer lives on another `W_U`, is no affine map of the context (it acts under
            conditions, or elsewhere), or adds a constant for which the model has no bias; the model
            is not made of plain weights, or its head cannot be untied: what was written gives other
            logits. Nothing is left then.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> joy = sl.fit_steer(sl.collect(model, sl.toy.corpus("sentiment", n=100, seed=0))).value
        >>> sorted(p.name for p in fold(model, joy, 2.0, "joyful").iterdir())[:2]
        ['config.json', 'generation_config.json']
    """
    value = value_of(steer)
    M, constant = affine_map(value, strength)
    check_lives_on(value, model, "steer")
    if is_steered(adapter(model).model):
        raise RuntimeError(
            "model: folded inside `with steerlens.steered(...)`, whose steer is none of its weights; leave the block first, and "
            "fold the sum of both"
        )
    on = readout(model)
    plain, head = _untied(model, on)
    tokens = torch.randint(on.n_tokens, (2, 6), generator=generator(1)).to(on.W_U.device)
    with eval_mode(model), steered(model, value, strength):
        expected = _logits(model, tokens).float().cpu()
    steered_head = (on.W_U.double().mT @ M.to(on.W_U.device).mT).to(on.W_U.dtype)
    weights = {head: steered_head.cpu().contiguous()}
    if bool(constant.any()):
        weights |= _bias_for(model, plain, head, (M, constant), tokens)
    plain.load_state_dict(weights, strict=False, assign=True)
    about = {"steer": getattr(value, "name", "steer"), "strength": float(strength)}
    about |= {"model_id": on.model_id, "readout_digest": on.digest}
    with _in_place(as_path(path), overwrite) as folder:
        _save(plain, folder)
        tokenizer = _tokenizer(model)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        write_json(folder / NOTE, about)
        error = _reloaded_error(plain, folder, tokens.cpu(), expected)
        tolerance = PROBE_TOLERANCE * (1 if on.W_U.dtype == torch.float32 else 30)
        if not error < tolerance:
            raise ValueError(
                f"model: {architecture(model)}, loaded again with the steer in its weights, gives other "
                f"logits (error {error:.2g} of their size, {tolerance:.0e} is allowed): its head cannot be "
                "untied, or its weights are processed (load them raw, with steerlens.load_model). Nothing "
                "was written; steer it while it runs instead"
            )
    return as_path(path)


def _untied(model: Model, on: Readout) -> tuple[Any, str]:
    """Return a plain Hugging Face model with the same weights and a head of its own, and the name
    of the head's weight."""
    source = plain_source(model)
    body = adapter(model).W_E.dtype
    if on.W_U.dtype != body:
        raise ValueError(
            f"model: its head is {on.W_U.dtype} and its input embeddings {body}; a checkpoint is loaded in one dtype, in which "
            f"its logits would be others: model.to({body}), and take the steer there (steerlens.export.rebase)"
        )
    state = {name.replace(WRAPPED, ""): x for name, x in source.state_dict().items()}
    config = copy.deepcopy(source.config)
    config.tie_word_embeddings = False
    config.architectures = [type(source).__name__]
    with torch.device("meta"):  # no memory and no random numbers for weights that are given anyway
        plain = type(source)(config)
    wanted = plain.state_dict()
    head = head_name(plain)
    lacking = [name for name in wanted if name not in state]
    whole = not lacking and state[head].shape == on.W_U.mT.shape
    if not whole or not torch.equal(state[head], on.W_U.mT):
        raise ValueError(
            f"model: the weights of {type(source).__name__} are not plain ones (they lack "
            f"{', '.join(lacking[:3]) or 'the head'}): processed, merged or quantised weights cannot be "
            "folded; load them raw, with steerlens.load_model"
        )
    given = {name: state[name].detach().cpu() for name in wanted}
    plain.load_state_dict(given, assign=True)
    plain.generation_config = copy.deepcopy(source.generation_config)
    return plain, head


def _bias_for(
    model: Model,
    plain: Any,
    head: str,
    maps: tuple[Float[Tensor, "d d"], Float[Tensor, " d"]],
    tokens: Tensor,
) -> dict[str, Tensor]:
    """Return the bias, by its name, that makes `c (M W_U)` be `(cM + v) W_U`.

        b_U' = b_U + v W_U        or, before the head,  β' = β + v M⁻¹

    Raises:
        ValueError: neither the head nor the norm before it has one, or `M` has no inverse.
    """
    M, constant = maps
    wanted = plain.state_dict()
    name = head.removesuffix("weight") + "bias"
    if name in wanted:
        added = wanted[head].double() @ constant
    else:
        name = _bias_before(model, tokens)
        added = torch.linalg.lstsq(M.mT, constant[:, None], driver="gelsd").solution[:, 0]
        left = float((added @ M - constant).norm() / constant.norm())
        if name is None or left > 1e-6:
            why = (
                "no bias" if name is None else f"no inverse of I + sW (it misses {left:.2g} of it)"
            )
            raise ValueError(
                f"steer: it adds a constant, for which {type(plain).__name__} has {why}: neither its head nor the norm before "
                "it can hold it. Steer the logits instead (steerlens.export.logit_steer), or write an adapter "
                "(steerlens.export.lora)"
            )
    return {name: (wanted[name].double() + added).to(wanted[name].dtype)}


def _bias_before(model: Model, tokens: Tensor) -> str | None:
    """Return the name of the bias of the module that hands the head its input; None without one."""
    entered: list[Tensor] = []
    left: list[tuple[str, Tensor]] = []

    def look(c: Tensor) -> Tensor:
        entered.append(c)
        return c

    with eval_mode(model), add_hooks(model, ((UNEMBED_IN, look),)), ExitStack() as placed:
        for name, module in plain_source(model).named_modules():
            if isinstance(getattr(module, "bias", None), Tensor):

                def keep(_: Any, __: Any, out: Any, name: str = name) -> None:
                    left.append((name, out))

                placed.callback(module.register_forward_hook(keep).remove)
        _logits(adapter(model).model, tokens)
    same = (n for n, out in left if isinstance(out, Tensor) and torch.equal(out, entered[0]))
    return next((f"{name}.bias".replace(WRAPPED, "") for name in same), None)


def _tokenizer(model: Model) -> Any:
    """Return the tokenizer with which the model's texts are read; None where there is none.

    Of a bridge that which lies beside the weights, if it has the same words.
    """
    found = adapter(model)
    if isinstance(found, HuggingFace):
        return found.tokenizer
    beside, own = tokenizer_of(plain_source(model)), found.tokenizer
    same = beside is None or own is None or own.get_vocab() == beside.get_vocab()
    return beside if same else own


def _logits(model: Model, tokens: Tensor) -> Float[Tensor, "batch pos vocab"]:
    return adapter(model).logits(tokens, torch.ones_like(tokens))


def _save(plain: Any, folder: Path) -> None:
    """Write weights and configurations, also settings of `generate` that transformers reads, with a
    warning, and would not write (a temperature without `do_sample`)."""
    settings, aside = plain.generation_config, None
    try:
        if settings is not None:
            settings.validate(strict=True)
    except ValueError:
        aside, plain.generation_config = settings, type(settings)()
    with without_bars():
        plain.save_pretrained(folder)
    if aside is not None:
        aside.to_json_file(folder / "generation_config.json")


def _reloaded_error(plain: Any, folder: Path, tokens: Tensor, expected: Tensor) -> float:
    """Return the largest error of the checkpoint's logits, of their size.

    It is loaded as anybody does; what no `AutoModelForCausalLM` loads, by its own class.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM

    # code beside weights is registered where it is loaded, and would be asked for again
    own = not type(plain).__module__.startswith("transformers.models.")
    known = type(plain.config) in MODEL_FOR_CAUSAL_LM_MAPPING and not own
    kind: Any = AutoModelForCausalLM if known else type(plain)
    with without_bars(), torch.no_grad():
        again: Any = kind.from_pretrained(folder, dtype=plain.get_input_embeddings().weight.dtype)
        again = again.eval()
        found = _logits(again, tokens).float()
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-6))


@contextmanager
def _in_place(path: Path, overwrite: bool) -> Iterator[Path]:
    """Give a folder beside a path to write to, and put it in its place at the end: whole, or not at
    all."""
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"path: {path} is a file; choose a folder")
    earlier = (path / NOTE).is_file()
    if path.is_dir() and any(path.iterdir()) and not (overwrite and earlier):
        step = "pass overwrite=True to replace it" if earlier else "choose another"
        raise FileExistsError(f"path: the folder {path} is not empty; {step}")
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield folder
        os.chmod(folder, 0o755)
        aside = Path(mkdtemp(dir=path.parent, prefix=f".{path.name}.earlier."))
        if path.is_dir():  # kept until the new one is in its place: who is killed loses neither
            os.replace(path, aside)
        os.replace(folder, path)
        shutil.rmtree(aside)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, SafetensorError):  # it names no file, and a full disk is its like
            raise OSError(f"{path}: {error}; nothing was written") from error
        raise
