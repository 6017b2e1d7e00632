"""Benchmarks on an accelerator beside the peers there; on a CPU a rehearsal, whose times say nothing."""
