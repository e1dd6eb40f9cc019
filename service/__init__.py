"""Serve published classifiers over HTTP. Importing it does nothing; `python -m service` starts it."""
