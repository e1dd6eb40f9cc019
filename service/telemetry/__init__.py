"""Telemetry: request counts, latencies, log lines and the Prometheus metrics of all processes.

Hooks hold the clocks; what is measured knows nothing about metrics.
"""
