"""Operations on a whole model: select, convert, harden, share, budget, quantise, report."""
