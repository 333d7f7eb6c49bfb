"""Convert Keras models to files: the part of the export half that needs Keras and TensorFlow.

Why: conversion happens on the computer that trains, everything else also on the device.
`sparse_ready` rewrites models for sparse kernels, `preparing` prepares them for the converter, and `converting`
writes files that were run and compared first; `loading` opens saved models and data for the command line.
Start at `converting.to_tflite.to_tflite`.
"""
