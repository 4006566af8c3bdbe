"""``python -m mooring_api``: the command line."""

from mooring_api.cli import main

main()
