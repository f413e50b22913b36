"""More ways to ask whether the network uses what a map shows: what it says of perturbed images."""
