"""Write the best files of a search, and describe how they were found.

Why: whoever gets a file wants to know what it lost, which other files there were, and how to make it again.
In go the trials of a search; out come the files of the front with a model card each, `report.json`
(`compress_report`), a page with the front, the lineage of the best file and the program of each (`compress_page`),
and the same as a study of Optuna (`optuna_study`).
Neighbors: the trials come from the loop above this room.
Start at `write_front.write_front`.
"""
