"""Numbers at few bits: packing, levels, quantizers."""
