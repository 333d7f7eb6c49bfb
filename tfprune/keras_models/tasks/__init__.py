"""Run calls of a function of a model and data on any executor, here or on other machines.

Why: loops of independent steps (trials of a search, evaluations of a scan) can use more processors and machines than
one. Model and data are packed once (`packed_model`: bytes of Keras and NumPy, nothing pickled). A `task_pool` submits
calls of `run_task.run_task`, which a worker answers with a result, or asks for the data first. A call whose worker
dies is run once more. Without an executor, `process_pool` starts processes of this machine, or the calls run in this
process. Start at `task_pool.run_tasks`.
"""
