"""The commands: the options of each, and the functions that it calls.

`cli` puts the commands together, prints what they return and turns errors into exit codes, so no command prints.
The modules start quickly, because `--help` and completion read all of them: they import what they
need when the command runs.

A new command is a module with a function `add_NAME(commands)`, an entry in `cli.COMMANDS`, and a section in
docs/reference/command_line.md. Its help has an example, and its mistakes a test: one line, exit code 2.
"""
