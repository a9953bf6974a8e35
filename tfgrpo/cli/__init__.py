"""The command line: one module per command, each with `configure(parser)` and `run(args) -> exit code`; a command
with sub-commands sets `run` for each of them in `configure`.

Installed packages add commands of their own through the entry point group "tfgrpo.commands": the name of the command
and a module of the same shape.
"""
