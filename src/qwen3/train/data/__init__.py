"""Pre-training data: from raw text to what step N sees.

    sources, hub       where documents come from: JSONL, Parquet, text, hf://; units of work
    labels, rules      what is said of a document; conditions on it, for filters, pools and weights
    duplicates         equal and nearly equal documents
    build, workers     raw files -> shards and a manifest, on one process, several, or a Ray cluster
    shards, manifest   Megatron's .bin/.idx, a table of labels, and what the data set says of itself
    dataset            a finished data set, opened and checked
    order, packing     position -> documents; pieces -> full rows
    stage              a training stage: step number -> rows; `train.loader` makes `Batch`es of them
    mixture            weights fitted on proxy runs

What a trainer needs:

    data = StageData(Dataset(directory), stage, seed)       # `stage`: general(), reasoning(), long_context(), your own
    for batch in loader.batches(data, step, rank, world_size, rows_per_batch): ...
    loader.num_targets(data, step)                          # normalises the loss of the whole step, on every rank
    data.digest(step)                                       # SHA-256 of the step's ids: equal on any machine
    data.counts("source", start, stop)                      # exact tokens by label, for a ledger; data.epochs likewise
    data.dataset.manifest                                   # sources, licences, digests, filters: a card's lineage

The state of the data is the step number. `StageData(..., held_out=True)` is what no stage trains on.
No module here knows torch. All errors of input are `DataError`.
"""
