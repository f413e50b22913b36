"""Results on disk: one folder a protocol, with parquet parts that only grow.

``<dataset>/<network>-<key>/`` holds ``_protocol.yaml``, ``_provenance.json`` and parts
``part-<chunk>-<what>.parquet``. A part holds one row a case, method and layer, entry by entry (method at layer), the
cases of each in the same order. Its footer, the note, says which entries, metrics and cases these are. Parts are
written once and never changed.
"""
