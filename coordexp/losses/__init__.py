"""The objective: formulas to be read (reference), the same fast (fused, chunk, slices), its sums (terms), the module (objective)."""
