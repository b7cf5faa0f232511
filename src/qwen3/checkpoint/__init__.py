"""Weights on disk: Hugging Face directories in, the same out, and where they come from.

`hub` turns a name into a directory, `safetensors` reads the file format, `names` knows which tensors a config implies,
`directory` finds exactly those in a directory's files, `load` makes models of them and saves models,
`packed_cache` keeps packed weights for the next start, `generation_config` reads the sampling that a checkpoint
recommends. Only what makes models needs torch; this package imports nothing by itself.
"""
