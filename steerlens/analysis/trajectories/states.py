"""The states of a layer along texts, by task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.maths.torch_defaults import torch_defaults
from steerlens.models.embeddings import states_at
from steerlens.models.generate import generate
from steerlens.models.hooks import Model, adapter, check_site, convention
from steerlens.models.readout import readout
from steerlens.models.tokenization import encode, lay_out
from steerlens.values.hook_names import resid_post
from steerlens.values.labelled import Labelled
from steerlens.values.texts import as_texts


@dataclass(frozen=True, eq=False)
class Trajectories:
    """States of one site at the written positions of texts, in order.

    Args:
        states: float32, text behind text.
        text: which text each belongs to: 0, 0, …, 1, 1, …
        task: which task each text belongs to, as an index into `names`.
        names: of the tasks.
        texts: prompt and text, whole.
        site: the hook that the states are from.

    Raises:
        ValueError: sizes that do not fit, texts out of order or without a position, a task of no
            name, states that are not finite.
    """

    states: Float[Tensor, "n d"]
    text: Int[Tensor, " n"]
    task: Int[Tensor, " n_texts"]
    names: tuple[str, ...]
    texts: tuple[str, ...]
    site: str

    def __post_init__(self) -> None:
        n = len(self.task)
        if len(self.text) != len(self.states) or len(self.texts) != n or n == 0:
            raise ValueError(
                f"states, text, task, texts: got {len(self.states)}, {len(self.text)}, {n} and {len(self.texts)} rows, expected "
                "as many states as text numbers, and as many tasks as texts"
            )
        if not torch.equal(self.text.unique_consecutive(), torch.arange(n).to(self.text)):
            raise ValueError(
                f"text: expected 0 … {n - 1}, each for all states of one text in a row; leave out texts without states"
            )
        if int(self.task.min()) < 0 or int(self.task.max()) >= len(self.names):
            raise ValueError(
                f"task: got {sorted(set(self.task.tolist()))}, expected indices into names {self.names}"
            )
        if not bool(self.states.isfinite().all()):
            raise ValueError("states: some are not finite; load the model in float32")

    @property
    def lengths(self) -> Int[Tensor, " n_texts"]:
        """Positions of each text."""
        return self.text.bincount(minlength=len(self.task))

    @property
    def means(self) -> Float[Tensor, "n_texts d"]:
        """The mean state of each text."""
        total = torch.zeros(len(self.task), self.states.shape[1], dtype=torch.float64)
        return (total.index_add(0, self.text, self.states.double()) / self.lengths[:, None]).float()

    def of(self, names: Sequence[str]) -> "Trajectories":
        """Return the texts of some tasks only."""
        missing = [name for name in names if name not in self.names]
        if missing:
            raise ValueError(f"names: no task {missing[0]!r}; expected some of {self.names}")
        places = torch.tensor([names.index(name) if name in names else -1 for name in self.names])
        task = places[self.task]
        number = torch.where(task >= 0, (task >= 0).cumsum(0) - 1, -1)
        rows = number[self.text] >= 0
        texts = tuple(text for text, t in zip(self.texts, task.tolist(), strict=True) if t >= 0)
        return Trajectories(
            self.states[rows],
            number[self.text][rows],
            task[task >= 0],
            tuple(names),
            texts,
            self.site,
        )


@torch_defaults()
def write(
    model: Model,
    tasks: Mapping[str, Labelled | Sequence[str]],
    *,
    max_new_tokens: int = 30,
    temperature: float = 1.0,
    seed: int = 0,
) -> dict[str, Labelled]:
    """Return what a model writes behind the prompts of each task.

    Prompts that it answers with nothing at all are left out.

    Args:
        tasks: by name, labelled texts with prompts (their own texts are not read), or the prompts
            alone.
        max_new_tokens, temperature, seed: as of `generate`.

    Raises:
        ValueError: labelled texts without prompts, a task behind whose prompts nothing is written.
    """
    written = {}
    for name, data in _checked(tasks).items():
        if isinstance(data, Labelled) and not data.prompts:
            raise ValueError(
                f"tasks: {name!r} has texts without prompts, so there is nothing to go on from; give it prompts, or take its own "
                "texts with generated=False"
            )
        prompts = list(data.prompts if isinstance(data, Labelled) else data)
        table = generate(
            model, prompts, seed=seed, max_new_tokens=max_new_tokens, temperature=temperature
        )
        said = [
            (prompt, text)
            for prompt, text in zip(table.prompt, table.text, strict=True)
            if text.strip()
        ]
        if not said:
            raise ValueError(
                f"tasks: the model writes nothing behind any prompt of {name!r}; give it other prompts"
            )
        written[name] = Labelled(
            tuple(t for _, t in said), (0.0,) * len(said), tuple(p for p, _ in said)
        )
    return written


@torch_defaults()
def trajectories(
    model: Model,
    tasks: Mapping[str, Labelled | Sequence[str]],
    *,
    layer: int | str,
    generated: bool = True,
    max_new_tokens: int = 30,
    temperature: float = 1.0,
    seed: int = 0,
) -> Trajectories:
    """Return the states of a layer along text, at the tokens behind the prompt.

    Each state is that of the model having read its token.

    The model writes first (see `write`); prompt and text are then read in one pass up to the layer.
    Begin and end of text and prompts are no part of a trajectory.

    Args:
        tasks: by name, labelled texts with prompts, or the prompts alone; with `generated=False`,
            labelled texts (behind their prompts where they have some) or texts.
        layer: a number (`blocks.L.hook_resid_post`) or the name of a hook whose activation is
            `[batch, pos, d]`.
        generated: along what the model writes, or along the texts that are given.
        max_new_tokens, temperature, seed: of what is written.

    Raises:
        ValueError: no such layer, no tasks or texts, one without prompts, a text whose prompt fills
            the context.
        KeyError: no such hook.

    Example:
        >>> import steerlens as sl
        >>> from steerlens.toy.tasks import task
        >>> sums = task("arithmetic", n=5, seed=0)
        >>> found = trajectories(sl.load_model("toy-tasks"), {"sums": sums}, layer=1, generated=False)
        >>> found.states.shape[0] == sum(len(text.split()) for text in sums.texts)
        True
    """
    site = _site(model, layer)
    if generated:
        tasks = write(
            model, tasks, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed
        )
    rows = [
        (t, p, text) for t, data in enumerate(_checked(tasks).values()) for p, text in _pairs(data)
    ]
    how = convention(model, readout(model))
    encoded = encode(
        adapter(model).tokenizer,
        [text for _, _, text in rows],
        how,
        end=False,
        prompts=[prompt for _, prompt, _ in rows],
        apart=not generated,
    )
    short = [
        i
        for i, (ids, n) in enumerate(zip(encoded.ids, encoded.prompt, strict=True))
        if len(ids) <= n
    ]
    if short:
        raise ValueError(
            f"tasks: nothing of a text is left behind its prompt within {how.n_ctx} tokens: {rows[short[0]][2][:40]!r}; shorten "
            "the prompt"
        )
    read = states_at(model, encoded.ids, site)
    if read[0].ndim != 2:
        raise ValueError(
            f"layer: {site!r} holds {('batch', *read[0].shape)}, expected [batch, pos, d]; take a residual hook"
        )
    states = [h[begin:] for h, begin in zip(read, encoded.prompt, strict=True)]
    text = torch.arange(len(rows)).repeat_interleave(torch.tensor([len(h) for h in states]))
    task = torch.tensor([t for t, _, _ in rows])
    prompts, texts = [prompt for _, prompt, _ in rows], [text for _, _, text in rows]
    laid = lay_out(adapter(model).tokenizer, texts, how, prompts, apart=not generated)
    whole = tuple(one.whole[one.lead :] for one in laid)
    return Trajectories(torch.cat(states), text, task, tuple(tasks), whole, site)


def _site(model: Model, layer: int | str) -> str:
    if isinstance(layer, str):
        check_site(model, layer)
        return layer
    n = adapter(model).n_layers
    if not 0 <= layer < n:
        raise ValueError(f"layer: got {layer}, expected 0 … {n - 1}, or the name of a hook")
    return resid_post(layer)


def _checked(
    tasks: Mapping[str, Labelled | Sequence[str]],
) -> Mapping[str, Labelled | Sequence[str]]:
    if not tasks:
        raise ValueError(
            'tasks: got none, expected texts by name of their task, e.g. {"sums": prompts}'
        )
    for name, data in tasks.items():
        if isinstance(data, str) or not len(data):
            raise ValueError(
                f"tasks: {name!r} is {str(data)[:40]!r}, expected labelled texts or a list of texts, at least one"
            )
    return tasks


def _pairs(data: Labelled | Sequence[str]) -> list[tuple[str, str]]:
    """Return pairs of a prompt, empty where there is none, and a text."""
    if not isinstance(data, Labelled):
        return [("", text) for text in as_texts(data, "tasks")]
    return list(zip(data.prompts or ("",) * len(data), data.texts, strict=True))
