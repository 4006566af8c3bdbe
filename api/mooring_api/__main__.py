"""``python -m mooring_api``: the command line."""

from mooring_api.commands.cli import main

main()
