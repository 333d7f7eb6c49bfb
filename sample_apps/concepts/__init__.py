"""The modules of sample_apps/concept_requirements.py.

`clothes` says what is true of an image and what the product requires, `runs` trains a network and makes it smaller,
and `report` writes the tables and the picture. Start at `runs.one_seed`.
"""
