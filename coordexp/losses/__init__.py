"""The objective: formulas to be read (reference), the same fast (fused), and coordinate diagnostics."""
