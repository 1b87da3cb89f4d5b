"""A page on which strengths are moved by hand: text, probabilities, evidence, words and cost."""
