"""Soft prompts, replaced activations and key-value prefixes, with embedding priors."""
