"""Representation fine-tuning: low-rank edits of hidden states (Wu et al., arXiv 2404.03592)."""
