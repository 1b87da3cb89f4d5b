"""The models of the zoo, and the proof that it was left as it was."""

from tests.models.conftest import model as model
from tests.models.conftest import tiny as tiny
