"""Optimizers: their state follows the weights into a model that was grown or made smaller, and is compared.

The reports of `grow_depth`, `drop_blocks` and the functions for experts say where each weight of the new model comes
from (`origins`). `carry_optimizer` takes the state of an optimizer the same way, and `moment_cosines` takes first
moments back to the weights that they come from.
"""
