"""Linear algebra of pruning: which weights of a linear map to remove, and new values for the others.

Keras layers and the operators of a .tflite file are the same linear maps, so one solver serves both halves. It gets
second moments of the inputs (`least_squares.GramMoments`) and the weights as a matrix of outputs by inputs. `zeros`
removes single weights, `surgery` whole inputs, `least_squares` solves for the weights that remain. All of it is
NumPy: it knows neither Keras nor files. Start at `least_squares.GramMoments`.
"""
