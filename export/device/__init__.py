"""Run a model file: with an interpreter here, in a process of its own, or on another machine.

Why: a file is right, small and fast only where it was run.
`running` runs, verifies and times files, `processes` keeps a crash of a runtime away from the caller, and `remote`
does the same on a board over ssh or a phone over adb.
"""
