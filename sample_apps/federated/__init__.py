"""The modules of sample_apps/federated_watch.py.

`people` splits the recordings of each person in time, `clients` is the model of a watch and its training, `methods`
says what a watch does in a round, `flower` is the Flower app with Keras, `devices` that of watches without Keras,
`server` is what both have, `here` runs an app on this machine, `ways` are the trainings that are compared,
`newcomers` measures what a person gets who was not there, `files` exports a model for each watch, and `report` makes
the tables and the picture of the results on disk. Start at `flower.train`.
"""
