"""Run a module of this package in a process of its own.

Why: native code of interpreters and of the converter can crash, and that must be an answer and not the end of the
program. In goes a folder with a job (`job_files`: JSON and NumPy, nothing pickled); out come a result in the same
folder, or the reason why there is none. `child_process` starts a new Python for each job. Where a job needs a package
that takes seconds to import, `fork_server` keeps one Python that has imported it, and that forks for each job
(`fork_server_child` is its other side). A `device` may take the place of this machine: it has the same `run_job`.
A child ends with its parent, whatever happens to the parent, and removes the folder of its job (`end_with_parent`).
Start at `child_process.run_job`.
"""
