"""The objective: formulas to be read (reference), the same fast (fused, chunk, slices), sums (terms), the module (objective)."""
