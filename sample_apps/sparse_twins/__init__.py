"""The modules of sample_apps/fast_zeros.py.

`networks` builds a ResNet and a U-Net, `scenes` makes the pictures for the U-Net, `runs` trains a network, its twins
with zeros and those with fewer channels, and writes their files, and `report` makes the tables and the picture.
"""
