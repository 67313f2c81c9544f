"""What is done to a whole model: select, convert, harden, share, budget, quantise, report."""
