"""The one error that this package raises for bad input."""


class DataError(ValueError):
    """Raw files, shards, a manifest or a request that cannot be used; the message names the file and the place."""
