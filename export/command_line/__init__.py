"""The program `tfprune`: its commands, the demo, and how they read and write saved models.

`cli` is the entry point. `commands` and `file_commands` have the commands: options, and the functions that they
call; they import what they need when the command runs, because `--help` and completion read all of them. A new
command is a function `add_NAME(commands)`, an entry in `cli.COMMANDS`, and a section in
docs/howto/commands.md.
"""
