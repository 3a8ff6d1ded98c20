"""The command line ``face-align``: one module for each group of commands."""
