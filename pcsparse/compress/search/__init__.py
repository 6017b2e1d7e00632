"""Which width for which layer: one interface, six methods, over an abstract space of choices."""
