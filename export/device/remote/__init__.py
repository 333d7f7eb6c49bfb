"""Run files on another machine: a board over ssh, or a phone over adb.

Why: how fast a file is, and whether it runs, only the device on which it is to run can tell.
In goes a job as `running` writes it for a process of its own, and out comes what that process left. `remote.Remote`
is the device; a `link` starts Python there by a `transport`, sends the `payload` (the rooms of the device half, as an
archive), and exchanges `messages` with the `agent`, which runs jobs there and removes its folder when the connection
ends. `error_messages` turns what ssh and shells print into errors that say what to do.
Neighbors: `running.benchmark` and `running.verify` take a `Remote` as `on`, and know no more of it than `run_job`.
Start at `remote.Remote`, then `link.Link`.
"""
