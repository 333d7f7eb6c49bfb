"""Run a model file: with an interpreter here, in a process of its own, or on another machine.

`runner` runs a file, `verify` compares it with expected outputs and labels, `benchmark` times it, `generator`
writes text with it, `web` runs it in a browser. `processes` keeps a crash of a runtime away from the caller, and
`remote` runs the same jobs on a board over ssh or a phone over adb. Start at `runner.Runner`.
"""
