"""`python -m steerlens.cli`."""

from steerlens.cli import app

app()
