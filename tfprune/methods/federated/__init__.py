"""Federated pruning: what clients and server exchange, and averages under the masks of the clients.

A model is a list of arrays, as `get_weights` of the stripped model returns them; masks are a list of the same
length. `averages` averages, `update` packs what is sent, `masks` has the ways to choose masks, and `flower`, with
servers and clients, is the only module that needs the package flwr. Start at `averages.masked_average`.
"""
