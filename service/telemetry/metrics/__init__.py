"""The numbers behind /metrics: each process records its own, all are summed when somebody asks.

recorder.py     what happens in one process, and its totals
snapshots.py    the folder where each process leaves its totals for the others, and how the dead's are kept
exposition.py   all of them as Prometheus reads them
families.py     every metric's name, labels and meaning
"""
