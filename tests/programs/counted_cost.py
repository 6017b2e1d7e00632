"""A cost table that hangs on no machine, in the place of a measured one."""

from dataclasses import replace

from pcsparse.compress.cost_measure import measure_cost


def counted_cost(model, inputs, graph, step=256):
    """A cost table whose milliseconds are multiply-adds."""
    table = measure_cost(model, inputs, graph=graph, runs=1, step=step)
    layers = [
        replace(
            layer,
            ms=tuple(
                tuple(1e-6 * layer.n_pairs * wide * narrow for narrow in layer.widths_out)
                for wide in (layer.widths_in if len(layer.ms) > 1 else layer.widths_in[:1])
            ),
        )
        for layer in table.layers
    ]
    whole = sum(layer.ms[-1][-1] for layer in layers)
    return replace(table, layers=tuple(layers), map_ms=1.0, network_ms=whole, least_ms=None)
