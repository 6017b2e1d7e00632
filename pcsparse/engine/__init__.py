"""How a convolution runs: problem, dataflows, plan."""
