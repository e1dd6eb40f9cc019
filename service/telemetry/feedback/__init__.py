"""Feedback: what became of predictions, as people tell it by the ids of their requests.

recent.py     the latest predictions, in memory that all HTTP processes share
pairs.py      predictions with their truths, in a folder, for retraining
accuracy.py   how often predictions were right, with an interval
"""
