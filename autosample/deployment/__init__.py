"""From a trained model to a plain fast one: chains, folding, plans, verification."""
