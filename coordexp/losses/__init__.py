"""The objective: the formulas (reference), the same fast (fused, chunk, slices), what they sum to (terms), the module (objective)."""
