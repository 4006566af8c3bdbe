"""The command line: `cli` finds the command, one group a file, `target` finds the service; all of it speaks over the API."""
