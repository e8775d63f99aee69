"""The objective: formulas to be read (reference), and a variant as data (objective)."""
