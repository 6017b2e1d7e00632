"""Frozen storage formats of sparse dense layers: pack, unpack, files; no arithmetic on weights."""
