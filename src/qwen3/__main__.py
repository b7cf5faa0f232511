"""`python -m qwen3` is `qwen3`."""

from qwen3.cli.main import main

main()
