"""``python -m mirnet_edge``."""

from mirnet_edge.cli import run

run()
