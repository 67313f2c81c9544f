"""From a trained model to a fast plain one: chains, folding, plans, verification."""
