"""The commands of `mooring`, one file per group."""
