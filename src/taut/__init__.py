"""taut: take the slack out of a neural network, and prove that nothing was lost."""
