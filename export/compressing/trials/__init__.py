"""Apply a recipe to a model, and measure the files that come of it.

Why: a trial has to give the same files in this process, in another one and on another machine.
A `recipe.Recipe` says how a model gets smaller: channels, zeros, precision, and how long it trains. A
`trial_runner.TrialRunner` applies it; a `file_evaluator.FileEvaluator` exports the result, runs the files and
measures them. What comes back is a `trial.Trial`, which is stored. `workers` run several at once on an executor, as
tasks of `keras_models/tasks`.
Neighbors: the loop above says which recipe is next.
Start at `trial_runner.TrialRunner`.
"""
