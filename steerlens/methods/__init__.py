"""Ways to steer: a folder each, with its value, its formulas and its fit side by side."""
