"""The service's processes: how they start, and what keeps them alive. Everything of LitServe is here.

The composition root is `server`.
"""
