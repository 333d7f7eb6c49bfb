"""Five usual ways to write a subclassed model of four inputs."""

from __future__ import annotations

import keras
from keras import layers


class KeywordsAndConfig(keras.Model):
    def __init__(self, units=4, **kwargs):
        super().__init__(**kwargs)
        self.units, self.dense = units, layers.Dense(units)

    def call(self, inputs):
        return self.dense(inputs)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class Config(KeywordsAndConfig):
    def __init__(self, units=4):
        super().__init__(units)

    def get_config(self):
        return {"units": self.units}


class Keywords(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4)

    def call(self, inputs):
        return self.dense(inputs)


class Neither(Keywords):
    def __init__(self):
        super().__init__()


class GraphInside(keras.Model):
    def __init__(self, units=4):
        super().__init__()
        self.units, self.graph = units, keras.Sequential([keras.Input((4,)), layers.Dense(units)], name="graph")

    def call(self, inputs):
        return self.graph(inputs)

    def get_config(self):
        return {"units": self.units}


COPIED = (KeywordsAndConfig, Config, Keywords, GraphInside)
