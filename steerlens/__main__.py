"""`python -m steerlens`."""

from steerlens.cli import app

app(prog_name="steerlens")
