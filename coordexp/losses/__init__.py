"""The Stage-1 objective: formulas of each term, their fused form and GPU kernel, diagnostics."""
