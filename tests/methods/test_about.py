"""A fitted condition holds where the text is about it."""

import pytest
import torch

import steerlens as sl
from steerlens.methods.steer.about import fit_about
from steerlens.toy import Condition, grammar
from steerlens.values.states import Shard
from tests.methods.make import model


@pytest.fixture(scope="module")
def states() -> sl.States:
    topics = grammar.topics
    texts = [
        t for k, topic in enumerate(topics) for t in grammar.sample(60, Condition(topic=topic), seed=k)
    ]  # fmt: skip
    labels = [1.0] * 60 + [-1.0] * 60 * (len(topics) - 1)
    return sl.collect(model(), sl.Labelled(texts, labels), progress=False)


def test_it_tells_a_topic_and_nothing_from_shuffled_labels(states: sl.States) -> None:
    found = fit_about(states, name="films")
    mixed = states.labels[torch.randperm(len(states.labels), generator=torch.Generator().manual_seed(0))]  # fmt: skip
    nothing = fit_about(states.relabel(mixed))
    # logistic regression on ten times the positions says 0.67 to 0.69: early in a text, and before
    # words that no topic has, a state does not tell
    assert found.accuracy > 0.62 and abs(nothing.accuracy - 0.5) < 0.06
    assert str(found.value) == "about films"


def test_it_is_the_discriminant_of_the_whole_cloud(states: sl.States) -> None:
    """Where noise is isotropic the vector is the difference of the means."""
    torch.manual_seed(0)
    on, d = states.readout, states.d_model
    gap = torch.zeros(d)
    gap[3] = 2.0
    y = torch.tensor([1.0, -1.0] * 200)
    c = torch.randn(400 * 50, d) + y.repeat_interleave(50)[:, None] * gap / 2 + 5
    text = torch.arange(400).repeat_interleave(50)
    shard = Shard(c, torch.zeros(len(c), dtype=torch.long), text)
    cloud = sl.States(on, (shard,), y, torch.full((400,), 50), torch.ones(400, dtype=torch.bool))
    found = fit_about(cloud)
    assert abs(float(found.value.vector[3])) > 0.99
    assert abs(found.value.threshold - 5 * float(found.value.vector.sum())) < 0.05
    expected = float(torch.distributions.Normal(0, 1).cdf(torch.tensor(1.0)))  # half the gap
    assert abs(found.accuracy - expected) < 0.02


def test_it_opens_a_steer_in_its_own_texts(states: sl.States) -> None:
    films = fit_about(states, name="films").value
    on = states.readout
    joy = sl.Steer(torch.eye(on.d_model), on, "joy")
    moved = []
    for topic in grammar.topics[:2]:
        texts = grammar.sample(30, Condition(topic=topic), seed=9)
        plain, gated = (
            torch.cat([p.hidden for p in sl.collect(model(), texts, intervention=x, progress=False).chunks(1 << 14)])
            for x in (None, joy.when(films))
        )  # fmt: skip
        moved.append(float((plain != gated).any(1).float().mean()))
    assert moved[0] > moved[1] + 0.1


def test_one_class_alone_is_refused(states: sl.States) -> None:
    with pytest.raises(ValueError, match="one side"):
        fit_about(states.relabel(torch.ones_like(states.labels)))
    with pytest.raises(ValueError, match="at least 10"):
        fit_about(states.select(torch.arange(len(states.labels)) < 9))
