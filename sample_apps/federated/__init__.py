"""The modules of sample_apps/federated_watch.py.

`people` splits the recordings of each person in time, `clients` is the model of a watch and its training, `methods`
says what a watch does in a round, `flower` is the Flower app (server and clients), `here` runs it in one process,
`ways` are the trainings that are compared, `newcomers` measures what a person gets who was not there, `files` exports
a model for each watch, and `report` makes the tables and the picture of the results on disk. Start at `flower.train`.
"""
