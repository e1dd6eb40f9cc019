"""The commands of `python -m service`, one module each; a command is imported only when it runs."""

COMMANDS = {
    "serve": "Serve the models of a registry over HTTP; this is what happens without a command.",
    "predict": "Ask a running service what images show.",
    "classify": "Classify a folder of images into a CSV or Parquet file; goes on where it was interrupted.",
    "score": "Score millions of images into Parquet, without a service: on this machine or on a Ray cluster.",
    "health": "Say whether a service is ready; for scripts and container health checks.",
    "models": "List what a service serves.",
    "feedback": "Tell what predictions should have been; show how often they were right; export both.",
    "bench": "Put a service under load and measure it.",
    "seed": "Copy the models that a registry lacks into it from another one.",
    "config": "Show the settings with which the service would run here, without secrets.",
    "keys": "Make, list and remove the API keys of a file.",
}
"""Each has a module of its name here, with a function `main(arguments) -> exit code`."""
