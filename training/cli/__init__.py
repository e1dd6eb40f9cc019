"""The command line of training: one module a command, options, and what they print."""
