"""How strongly is a text steered? The strength that explains it best, and how good a classifier that makes."""

from steerlens.analysis.strength.classify import classify, classify_states
from steerlens.analysis.strength.infer import TextStrengths, infer_strength, state_strengths

__all__ = ["TextStrengths", "classify", "classify_states", "infer_strength", "state_strengths"]
