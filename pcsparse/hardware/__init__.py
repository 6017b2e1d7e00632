"""Cycle models of published accelerators: what the formats and maps of this package would cost in silicon."""
