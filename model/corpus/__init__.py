"""The embedded corpus: interactions over ten small databases, written for this project.

`train.json` and `tables.json` have the form of SParC's own files, without the parsed `sql` of a
turn: readers here linearise `query` themselves. `rows/` holds the rows of each database, one file
a database, table -> rows in the order of the columns; `build.py` makes SQLite databases of them:

    python -m model.corpus.build FOLDER
"""
