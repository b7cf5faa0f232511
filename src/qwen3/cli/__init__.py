"""The command line, one module a command; `main` is the entry point and imports each only when it is called."""
