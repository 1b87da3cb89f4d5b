"""A steer as a classifier of texts, beside a linear probe and a bag of words."""

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy.special import expit, ndtr
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from steerlens.evaluate.scorers.card import Heldout, told_apart
from steerlens.evaluate.strength import check_prior, state_strengths
from steerlens.maths.stats import rank_correlation
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.models.collect import collect
from steerlens.models.hooks import Model
from steerlens.models.score import warn_of_cut
from steerlens.models.steering import check_lives_on
from steerlens.values.arguments import check_labelled, line_of
from steerlens.values.fit import Fit
from steerlens.values.labelled import Labelled
from steerlens.values.states import States
from steerlens.values.steer import Steer, SteerWithBackground
from steerlens.values.warn import warn_user

BINS = 10


@torch_defaults()
def classify(
    model: Model,
    steer: Steer | SteerWithBackground | Fit,
    train: Labelled,
    test: Labelled,
    *,
    prior: float = 1.0,
) -> pd.DataFrame:
    """Return how well the sign of a label is told from its text.

    By the steer, and by two usual classifiers.

        steer, likelihood ratio     P(+) = σ(log P_{+1}(text) − log P_{-1}(text) + log n₊/n₋)
        steer, inferred strength    P(+) = Φ(ŝ / error), the posterior of the strength under a normal prior
        probe                       logistic regression on the mean final hidden state of the text
        bag of words                logistic regression on word counts

    The first two learn nothing here: the steer was fitted to explain texts, not to tell labels
    apart, and its probabilities are used as they come (n₊, n₋ from `train`). The other two are
    trained on `train`, their penalty chosen by cross-validation there. Texts with label 0 have no
    sign and count in the rank correlation only; copies of a test text count once.

    A steer reads a text only through what the language model predicts, token by token: with a good
    model that beats a probe on its last hidden states (on the toy world by 0.05 of AUC), with a
    small one a bag of words beats both (SST-5 on a GPT-2 of d_model 192: AUC 0.80, probe 0.77,
    words 0.86). Real texts depend more from word to word than the model believes, so the likelihood
    ratio is overconfident there; `calibration` shows it, and the prior mends much of it.

    Args:
        steer: fitted on `train` or on other texts, never on `test`.
        train, test: no text in both.
        prior: standard deviation of the prior on the strength.

    Returns:
        One row per method: `method`, `accuracy`, `accuracy_low`, `accuracy_high` (95 % over test
        texts), `auc`, `auc_low`, `auc_high`,
        `log_loss` (nats per text), `calibration` (expected calibration error: mean distance of the
        predicted from the observed share in ten bins of equal size), `rank_correlation` (Spearman,
        of score and graded label, over all texts), `texts`.

    Warns:
        UserWarning: texts that are in both.

    Raises:
        ValueError: a sign that is missing in `train` or `test`, or has one text in `train`; a test text of
            which nothing is predicted; a steer of another model.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> train, test = (sl.toy.corpus("sentiment", n=n, seed=s) for n, s in ((300, 0), (100, 1)))
        >>> joy = sl.fit_steer(sl.collect(model, train, progress=False)).value
        >>> classify(model, joy, train, test).method.tolist()
        ['steer, likelihood ratio', 'steer, inferred strength', 'probe', 'bag of words']
    """
    steer = line_of(steer)
    check_lives_on(steer, model, "steer")
    for name, data in (("train", train), ("test", test)):
        check_labelled(data, name)
    check_prior(prior)
    seen, new = (collect(model, data, progress=False) for data in (train, test))
    for read in (seen, new):
        warn_of_cut(model, read, "not read")
    return classify_states(steer, (seen, train), (new, test), prior=prior)


def classify_states(
    steer: Steer | SteerWithBackground,
    train: tuple[States, Labelled],
    test: tuple[States, Labelled],
    *,
    prior: float = 1.0,
) -> pd.DataFrame:
    """Do what `classify` does for texts whose states are there already.

    Each comes with the states that `collect` made of it.
    """
    (seen, known), (new, asked) = train, test
    if again := len(set(known.texts) & set(asked.texts)):
        warn_user(
            f"test: {again} of its texts are in train too, so what is learned from train looks better than it is; "
            "train, test = data.split(0.8, seed=0) parts them"
        )
    for name, data in (("train", known), ("test", asked)):
        signs = {int(np.sign(label)) for label in data.labels}
        if not {-1, 1} <= signs:
            raise ValueError(
                f"{name}: labels of both signs are needed, got {sorted(set(data.labels))}"
            )
    silent = ((new.lengths == 0) & new.keep).nonzero().flatten().tolist()
    if silent:
        raise ValueError(
            f"test: text {silent[0]} ({asked.texts[silent[0]]!r}) has no token that is predicted (a model without begin-of-text "
            "predicts none of a single token), so the steer says nothing of it; leave it out"
        )
    y = np.sign(np.array(known.labels)).astype(int)
    pick = np.flatnonzero(y)
    found = state_strengths(new, steer, prior=prior).table
    prior_odds = np.log((y == 1).sum() / (y == -1).sum())
    scores = {
        "steer, likelihood ratio": expit(found.evidence.to_numpy() + prior_odds),
        # at the limit the error is infinite, and the side is all that is known
        "steer, inferred strength": ndtr(
            np.where(found.at_limit, np.inf * np.sign(found.strength), found.strength / found.error)
        ),
        "probe": _trained([StandardScaler()], mean_states(seen)[pick], y[pick], mean_states(new)),
        "bag of words": _trained(
            [CountVectorizer(token_pattern=r"\S+")],
            np.array(known.texts)[pick],
            y[pick],
            np.array(asked.texts),
        ),
    }
    rows = [first for first, *_ in asked.copies(by_label=True)]
    grades = np.array(asked.labels)[rows]
    return pd.DataFrame(
        [{"method": name, **judge_probabilities(p[rows], grades)} for name, p in scores.items()]
    )


def mean_states(states: States) -> Float[np.ndarray, "n_texts d_model"]:
    """Return the mean context vector of each text."""
    sums = torch.zeros(len(states.labels), states.d_model)
    for c, _, text in states.chunks(1 << 14):
        sums.index_add_(0, text, c)
    return (sums / states.lengths.clamp_min(1)[:, None]).numpy()


def _trained(steps: list, x: np.ndarray, y: Int[np.ndarray, " n"], new: np.ndarray) -> np.ndarray:
    folds = int(min(3, np.bincount(y + 1)[[0, 2]].min()))
    if folds < 2:
        raise ValueError(
            "train: a label's sign has a single text; classifiers need at least two of each"
        )
    penalties = {"C": np.logspace(-3, 2, 6)}
    last = GridSearchCV(
        LogisticRegression(solver="liblinear", random_state=0),
        penalties,
        cv=folds,
        scoring="neg_log_loss",
    )
    return make_pipeline(*steps, last).fit(x, y).predict_proba(new)[:, 1]


def judge_probabilities(
    p: Float[np.ndarray, " n"], grades: Float[np.ndarray, " n"]
) -> dict[str, float]:
    """Return what probabilities of the sign + are worth against graded labels; see `classify`.

    Example:
        >>> judge_probabilities(np.array([0.9, 0.2]), np.array([1.0, -0.5]))["accuracy"]
        1.0
    """
    pick = np.flatnonzero(grades)
    q, y = np.clip(p[pick], 1e-12, 1 - 1e-12), (grades[pick] > 0).astype(float)
    order = np.argsort(q, kind="stable")
    bins = np.array_split(order, min(BINS, len(order)))
    return dict(zip(Heldout._fields, told_apart(q, y > 0.5), strict=False)) | {
        "log_loss": float(-(y * np.log(q) + (1 - y) * np.log(1 - q)).mean()),
        "calibration": float(sum(len(b) * abs(q[b].mean() - y[b].mean()) for b in bins) / len(q)),
        "rank_correlation": rank_correlation(p, grades), "texts": len(q),
    }  # fmt: skip
