"""The reference as text files, see `gradexplain.cli.help`."""
