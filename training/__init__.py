"""Train classifiers and publish them. Importing it does nothing; `python -m training` starts it."""
