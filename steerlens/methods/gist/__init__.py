"""Prompts distilled into a few rows, and masks that hide a prompt behind its last tokens."""
