"""Give the tensors of a file other shapes, with which it computes the same.

`fix_batch` fixes an open batch, `explicit_padding` writes out the zeros around images, and `pointwise` turns fully
connected layers into 1x1 convolutions, on the images of `one_pixel`.
"""
